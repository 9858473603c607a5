//! oxenstored's rules, where they are others than xenstored's in more than a word: what it takes for a
//! number and a path, who may do what, what a transaction conflicts with, and which watches hear of it
//! (`tools/ocaml/xenstored`, Xen 4.14 to 4.20).
//!
//! Each module uses only what is above it:
//! - [`text`]: numbers, paths, permissions; [`refusal`]: the errors, of which one is no errno;
//! - [`counts`]: how many nodes each domain owns;
//! - [`store`]: one caller's operations on a tree, and what they leave behind for watches and conflicts;
//! - [`transaction`]: a snapshot with all that was asked and answered in it;
//! - [`watches`]: who watches what, in the order in which oxenstored looks through them;
//! - [`books`]: all of this for one server.

pub mod refusal;
pub mod text;

pub mod counts;

pub mod store;

pub mod transaction;

pub mod watches;

pub mod books;

pub use books::Books;
pub use refusal::Refusal;
