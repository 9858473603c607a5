//! The block protocol (`xen/include/public/io/blkif.h`), the same for both ends.
//!
//! | module | contents |
//! |---|---|
//! | (here) | a slot's contents: [`Request`], [`Response`] and what they are made of |
//! | (here) | how a slot is laid out in each ABI: the codecs [`X86_32`] and [`X86_64`] |
//! | [`nodes`] | the names of the xenstore nodes, and what both ends write there and read |

mod slots;

mod codec;
pub mod nodes;

pub use codec::{X86_32, X86_64};
pub use slots::{
    MAX_SEGMENTS, Malformed, Operation, Request, RequestRef, Response, SECTOR_SIZE,
    SECTORS_PER_PAGE, Segment, Segments, Status,
};
