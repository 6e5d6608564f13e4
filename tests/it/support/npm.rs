//! Installs packages from the npm registry.

use std::path::PathBuf;
use std::process::Command;

/// Installs a package into the target folder. Prints the reason and returns `None` if that fails.
pub(crate) fn install(package: &str) -> Option<PathBuf> {
    let name: String = package
        .chars()
        .map(|one| {
            if one.is_ascii_alphanumeric() {
                one
            } else {
                '_'
            }
        })
        .collect();
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    let installed = Command::new("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--prefix",
        ])
        .arg(&folder)
        .arg(package)
        .output();
    match installed {
        Ok(output) if output.status.success() => Some(folder),
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr);
            println!("SKIPPED: npm cannot install {package}: {reason}");
            None
        }
        Err(error) => {
            println!("SKIPPED: {package} needs npm: {error}");
            None
        }
    }
}
