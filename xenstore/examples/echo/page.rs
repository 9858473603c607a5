//! The page: one request and one answer at a time, each with a number.
//!
//! | bytes | who writes | what |
//! |---|---|---|
//! | 0..4 | front end | the request's number; 0: none yet |
//! | 4..8 | front end | its length in bytes |
//! | 8..2048 | front end | its bytes |
//! | 2048.. | back end | the answer, in the same form |
//!
//! A request is unanswered as long as the two numbers differ: so either end can go on with the page where
//! another process of its own left it.

use libgnt::SharedPages;
use std::sync::atomic::Ordering;

const REQUEST: usize = 0;
const ANSWER: usize = 2048;
const HEADER: usize = 8;
/// The longest request, in bytes.
pub const TEXT_MAX: usize = ANSWER - HEADER;

fn write(page: &SharedPages, at: usize, number: u32, text: &[u8]) {
    let text = &text[..text.len().min(TEXT_MAX)];
    page.write(at + HEADER, text);
    page.store_u32(at + 4, text.len() as u32, Ordering::Relaxed);
    // Pairs with the load in `number`: who sees it sees what was written before.
    page.store_u32(at, number, Ordering::Release);
}

fn number(page: &SharedPages, at: usize) -> u32 {
    page.load_u32(at, Ordering::Acquire)
}

/// Copied once; a length is the other end's word, and no more than that.
fn text(page: &SharedPages, at: usize) -> Result<Vec<u8>, String> {
    let length = page.load_u32(at + 4, Ordering::Relaxed) as usize;
    if length > TEXT_MAX {
        return Err(format!("a text of {length} bytes, where {TEXT_MAX} fit"));
    }
    let mut text = vec![0; length];
    page.read(at + HEADER, &mut text);
    Ok(text)
}

/// Puts a request there.
pub fn ask(page: &SharedPages, number: u32, text: &[u8]) {
    write(page, REQUEST, number, text);
}

/// The answer to that request, if it is there.
///
/// # Errors
/// The back end breaks the rules.
pub fn answered(page: &SharedPages, asked: u32) -> Result<Option<Vec<u8>>, String> {
    match number(page, ANSWER) {
        answer if answer == asked => text(page, ANSWER).map(Some),
        _ => Ok(None),
    }
}

/// Answers a request, if there is one; true if there was.
///
/// # Errors
/// The front end breaks the rules.
pub fn answer(page: &SharedPages) -> Result<bool, String> {
    let asked = number(page, REQUEST);
    if asked == number(page, ANSWER) {
        return Ok(false);
    }
    let text = text(page, REQUEST)?;
    write(page, ANSWER, asked, &text);
    Ok(true)
}
