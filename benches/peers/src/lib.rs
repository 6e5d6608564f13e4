//! The shared code of the programs in this package.

pub mod load;
pub mod measure;
#[path = "../../support/pass_through.rs"]
mod pass_through;
mod receiver;
mod stacks;
