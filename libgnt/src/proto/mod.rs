//! Protocols that both ends speak: what is on a ring, and what an end says about itself in xenstore.
//!
//! Layers, each using only what is above it: [`value`], how a node's text is read; [`blkif`], the
//! block protocol.

pub mod value;

pub mod blkif;
