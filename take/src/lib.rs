//! Writes a server of this workspace as a package that stands alone: the server's file, the parts of
//! the libraries that it uses as modules, and a manifest with the dependencies that these need.
//!
//! The text of the sources is kept, with its comments and its format. The syntax tree only decides
//! which items are used (`reach.rs`), and the others are cut out (`text.rs`).

mod manifest;
mod package;
mod reach;
mod source;
mod text;
mod workspace;

pub use package::{Layout, Package, check_folder};
