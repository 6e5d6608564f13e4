//! What the programs of this package have in common.

pub mod load;
pub mod measure;
#[path = "../../support/pass_through.rs"]
mod pass_through;
mod receiver;
mod stacks;
