//! Codecs that both agents share.

pub mod blkif;
