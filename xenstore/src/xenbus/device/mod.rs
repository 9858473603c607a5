//! A device as an end keeps it in xenstore: one machine of the handshake and its store's side, on a
//! thread of its own ([`Keeper`](crate::keeper::Keeper)). What is published, asked and checked is the
//! protocol's ([`FrontProtocol`], [`BackProtocol`]); which state follows which is here, for all of them.
//!
//! The protocol's own loop takes news, does what they say, and answers with reports:
//!
//! | front end: news | its answer | back end: news | its answer |
//! |---|---|---|---|
//! | [`Share`](FrontNews::Share) | `ring_ready`, `ring_failed` | [`Connect`](BackNews::Connect) | `connected`, `connect_failed` |
//! | [`Connected`](FrontNews::Connected) | requests | [`Serve`](BackNews::Serve) | answers |
//! | [`Stop`](FrontNews::Stop) | `quiet`, if it asks for that | | |
//! | [`Free`](FrontNews::Free) | `freed` | [`Free`](BackNews::Free) | `freed` |
//! | [`Removed`](FrontNews::Removed) | | the end ([`News::Over`](crate::keeper::News)) | |
//!
//! Either end's process or domain may die and come again at any point; it is seen as `Stop` and
//! `Free`, or as `Free`, and then `Share` or `Connect` come again.

mod situation;

mod front;

mod back;

pub use back::{BackDevice, BackNews, BackProtocol, BackSetting};
pub use front::{FrontDevice, FrontNews, FrontProtocol, FrontSetting, Link};
pub use situation::Situation;
