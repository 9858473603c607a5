//! What the values of nodes mean, whoever wrote them. The reading itself is
//! [`libgnt::proto::value`], which the block protocol's nodes use too.

pub use libgnt::proto::value::{boolean, number, shown, trimmed};
