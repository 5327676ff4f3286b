//! What the tests share that the library `contract` does not have.
//!
//! - [`workspace`]: the packages of the repository, as Cargo reports them.
//! - [`markdown`]: what a page of the documentation says that a test can try.
//! - [`sample`]: a part of a long suite, for machines and settings that are tested once more.

// Every error here is the failure of a test, and says what went wrong.
#![allow(clippy::missing_errors_doc)]

pub mod markdown;
pub mod sample;
pub mod workspace;

pub use markdown::Page;
pub use workspace::{Binary, Workspace};
