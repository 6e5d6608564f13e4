//! Checks that no output shows a secret of the configuration, wherever it was put.

use http::{HeaderMap, HeaderValue};
use tower_telemetry::Config;
use tower_telemetry::config::{Exporter, OtlpSettings};

use crate::all_variables::variables;

const SECRET: &str = "S3CR3Tk9";

/// Returns URLs with a secret in each part that may contain one.
fn urls() -> Vec<String> {
    let forms = [
        "http://u:$@h:1",
        "http://$@h:1/v1/traces",
        "http://$:p@h:1",
        "http://u:$/p@h:1",
        "http://u:p/$@h:1",
        "http://u:1/$@h",
        "http://u:p?$@h:1",
        "http://u:p#$@h:1",
        "http://u:p@$/p@h:1",
        "http://u:p@$?p@h:1",
        "http://u:p@$#p@h:1",
        "http://u:$%40h:1",
        "http://u:p/$%40h:1",
        "http://u%3A$@h:1",
        "http://h:1/$",
        "http://h:1/$/v1/traces",
        "http://h:1/v1/traces/$",
        "http://h:1/v1/%2F$",
        "http://h:1/;$",
        "http://h:1/a@$",
        "http://h:1?key=$",
        "http://h:1/?key=$",
        "http://h:1/v1/traces?$=1",
        "http://h:1/?a=b@$",
        "http://h:1/#$",
        "http://h:$",
        "http://h:1$",
        "http://[$]",
        "http://bad host/$",
        "http:// $",
        "http://h\\$",
        "http://$ %@h",
        "https://u:$@h:1",
        "ftp://u:$@h:1",
        "$://h:1",
        "u:$@http://h:1",
        "u:$@h:1",
        "$@h:1",
        "//u:$@h:1",
        "h:1/$",
        "h:1?$",
        "$",
        "http:$",
        "unix:///run/$",
        "unix://$",
    ];
    forms.iter().map(|form| form.replace('$', SECRET)).collect()
}

/// Returns the text of keys and certificates, used by mistake as the name of a file.
fn contents() -> Vec<String> {
    let forms = [
        "$",
        "$==",
        "MIIEvQIBADANBg/$+kqhkiG9w0==",
        "/9j/$==",
        "-----BEGIN PRIVATE KEY-----\n$\n-----END PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\\n$\\n-----END PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----$",
        "%2D%2D%2D%2D%2DBEGIN%20KEY%2D%2D%2D%2D%2D$",
        "data:application/x-pem-file;base64,$",
        "{\"key\":\"$\"}",
        "https://u:$@h/key",
    ];
    forms.iter().map(|form| form.replace('$', SECRET)).collect()
}

fn headers() -> Vec<String> {
    let forms = [
        "authorization=Bearer%20$",
        "authorization=Bearer $",
        "authorization: Bearer $",
        "$",
        "$=",
        "$==",
        "a=1,$",
        "authorization=%FF$",
        "authorization=$%0A",
        "authorization=a\n$",
        "$=authorization",
        "host=$",
        "content-length=$",
        "a b=$",
        "api-key=a,b$,c",
    ];
    forms.iter().map(|form| form.replace('$', SECRET)).collect()
}

/// Returns all text that a configuration, its guard and its errors print.
fn outputs(config: Config) -> String {
    let config = config.with_exporters([Exporter::Otlp]);
    let mut output = format!("{config:?}\n{config}\n{:#?}\n", config.warnings());
    for warning in config.warnings() {
        output.push_str(&format!("{warning}\n"));
    }
    match config.build() {
        Ok(telemetry) => output.push_str(&format!("{telemetry:?}")),
        Err(error) => output.push_str(&format!("{error}\n{error:?}\n{error:#?}")),
    }
    output
}

fn assert_hidden(place: &str, text: &str, config: Config) {
    let output = outputs(config);
    // Names of headers are printed in lower case.
    let is_hidden = !output
        .to_ascii_lowercase()
        .contains(&SECRET.to_ascii_lowercase());
    assert!(is_hidden, "{place}={text}: {output}");
}

fn is_file(name: &str) -> bool {
    name.ends_with("CERTIFICATE") || name.ends_with("_KEY")
}

fn with_variable(name: &str, value: &str) -> Config {
    Config::from_vars(|asked| match asked {
        _ if asked == name => Some(value.to_owned()),
        // Certificates are only read for `https`.
        "OTEL_EXPORTER_OTLP_ENDPOINT" if is_file(name) => Some("https://localhost:1".to_owned()),
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://localhost:1".to_owned()),
        _ => None,
    })
}

#[test]
fn no_variable_shows_a_secret() {
    for name in variables() {
        let texts = match &*name {
            // The name is sent with all telemetry, so it is shown.
            "SERVICE_NAME" | "OTEL_SERVICE_NAME" => continue,
            name if name.ends_with("_ENDPOINT") => urls(),
            "ALL_PROXY" | "HTTP_PROXY" | "HTTPS_PROXY" => urls(),
            name if name.ends_with("_HEADERS") => headers(),
            name if is_file(name) => contents(),
            "OTEL_RESOURCE_ATTRIBUTES" => vec![
                format!("api.key={SECRET}"),
                format!("api.key={SECRET},b"),
                format!("api.key=a,{SECRET}"),
                SECRET.to_owned(),
            ],
            name if name.contains("_CAPTURE_HEADERS_") => vec![
                format!("authorization={SECRET}"),
                format!("x-key: {SECRET}"),
                format!("https://u:{SECRET}@h"),
            ],
            // A URL that belongs to another variable.
            _ => vec![
                format!("http://u:{SECRET}@h:1"),
                format!("http://h:1/{SECRET}"),
                format!("https://h:1/?key={SECRET}"),
            ],
        };
        for text in texts {
            assert_hidden(&name, &text, with_variable(&name, &text));
        }
    }
}

#[test]
fn no_setter_shows_a_secret() {
    let base = || with_variable("", "");
    let traces = |settings: OtlpSettings| base().with_traces_otlp(settings);
    let new = OtlpSettings::new;
    for url in urls() {
        assert_hidden("with_endpoint", &url, base().with_endpoint(&url));
        assert_hidden("with_endpoint", &url, traces(new().with_endpoint(&url)));
        let insecure = base().with_insecure(true).with_endpoint(&url);
        assert_hidden("with_insecure", &url, insecure);
    }
    // Certificates are only read for `https`.
    let secure = || base().with_endpoint("https://localhost:1");
    for text in contents() {
        let config = secure().with_ca_certificate(&text);
        assert_hidden("with_ca_certificate", &text, config);
        let config = secure().with_client_certificate(&text, &text);
        assert_hidden("with_client_certificate", &text, config);
        let settings = new().with_ca_certificate(&text);
        let config = secure().with_traces_otlp(settings);
        assert_hidden("with_ca_certificate", &text, config);
        let settings = new().with_client_certificate(&text, &text);
        let config = secure().with_traces_otlp(settings);
        assert_hidden("with_client_certificate", &text, config);
    }
    for name in ["authorization", "host", "x-s3cr3tk9"] {
        let mut map = HeaderMap::new();
        map.insert(name, HeaderValue::from_static(SECRET));
        assert_hidden("with_headers", name, base().with_headers(map.clone()));
        assert_hidden(
            "with_headers",
            name,
            traces(new().with_headers(map.clone())),
        );
        let copy = map.clone();
        let config = base().with_headers_from(move || copy.clone());
        assert_hidden("with_headers_from", name, config);
        let copy = map.clone();
        let config = traces(new().with_headers_from(move || copy.clone()));
        assert_hidden("with_headers_from", name, config);
        #[cfg(feature = "opentelemetry-otlp")]
        assert_hidden(
            "with_reference_exporter",
            name,
            base().with_headers(map.clone()).with_reference_exporter(),
        );
    }
    let attribute = opentelemetry::KeyValue::new("api.key", SECRET);
    let config = base().with_resource_attribute(attribute);
    assert_hidden("with_resource_attribute", SECRET, config);
}

/// The file has a key in an unreadable form. The error must not quote it.
#[cfg(feature = "tls")]
#[test]
fn no_error_quotes_a_certificate_file() {
    for text in contents() {
        let name = format!("tower-telemetry-{}-quoted.pem", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, &text).expect("the file can be written");
        let base = || with_variable("", "").with_endpoint("https://localhost:1");
        let config = base().with_ca_certificate(&path);
        assert_hidden("a file of certificates", &text, config);
        let config = base().with_client_certificate(&path, &path);
        assert_hidden("a file of a key", &text, config);
        std::fs::remove_file(&path).expect("the file can be removed");
    }
}

#[test]
fn headers_of_the_message_itself_are_ignored_with_one_warning_each() {
    let names = [
        "content-length",
        "transfer-encoding",
        "host",
        "connection",
        "te",
        "content-type",
        "content-encoding",
        "upgrade",
        "trailer",
        "keep-alive",
        "proxy-connection",
        "grpc-encoding",
    ];
    let warned = |config: &Config| -> Vec<String> {
        config.warnings().iter().map(ToString::to_string).collect()
    };
    for name in names {
        let consequence = format!("has {name}, which describes the message itself; it is ignored");
        for variable in variables().iter().filter(|name| name.ends_with("_HEADERS")) {
            let text = format!("a=1,{}=0,b=2", name.to_ascii_uppercase());
            let config = with_variable(variable, &text);
            assert_eq!(warned(&config), [format!("{variable} {consequence}")]);
        }
        let mut map = HeaderMap::new();
        map.insert(name, HeaderValue::from_static("0"));
        map.insert("a", HeaderValue::from_static("1"));
        let config = Config::from_vars(|_| None).with_headers(map.clone());
        assert_eq!(
            warned(&config),
            [format!("Config::with_headers {consequence}")]
        );
        let settings = OtlpSettings::new().with_headers(map);
        let config = Config::from_vars(|_| None).with_logs_otlp(settings);
        assert_eq!(
            warned(&config),
            [format!("Config::with_logs_otlp {consequence}")]
        );
    }
}

#[test]
fn too_many_headers_are_cut_to_256_with_one_warning() {
    let warned = |config: &Config| -> Vec<String> {
        config.warnings().iter().map(ToString::to_string).collect()
    };
    let consequence = "has more than 256 headers; the others are ignored";
    let name = "OTEL_EXPORTER_OTLP_HEADERS";
    for count in [257, 24_577, 100_000] {
        let pairs: Vec<_> = (0..count).map(|n| format!("x-{n}=1")).collect();
        let config = with_variable(name, &pairs.join(","));
        assert_eq!(warned(&config), [format!("{name} {consequence}")]);
    }
    let mut map = HeaderMap::new();
    for n in 0..24_576 {
        let name: http::HeaderName = format!("x-{n}").parse().expect("a legal name");
        map.append(name, HeaderValue::from_static("1"));
    }
    let config = Config::from_vars(|_| None).with_headers(map);
    assert_eq!(
        warned(&config),
        [format!("Config::with_headers {consequence}")]
    );
}
