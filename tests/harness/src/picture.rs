//! Test pictures that fill pages, one grey byte a pixel: a slanting gradient and a large digit, so that
//! a person sees at once which one it is, and a machine if one byte of it is wrong.

use libgnt::PAGE_SIZE;

/// Pixels a line of a digit's drawing, and lines.
const GLYPH: (usize, usize) = (5, 7);
/// The digits, five pixels a line, the left one the highest bit.
const DIGITS: [[u8; GLYPH.1]; 10] = [
    [14, 17, 19, 21, 25, 17, 14],
    [4, 12, 4, 4, 4, 4, 14],
    [14, 17, 1, 2, 4, 8, 31],
    [31, 2, 4, 2, 1, 17, 14],
    [2, 6, 10, 18, 31, 2, 2],
    [31, 16, 30, 1, 1, 17, 14],
    [6, 8, 16, 30, 17, 17, 14],
    [31, 1, 2, 4, 8, 8, 8],
    [14, 17, 17, 14, 17, 17, 14],
    [14, 17, 17, 15, 1, 2, 12],
];

/// Width and height of a picture that fills so many pages to the last byte: as near to a square as
/// a width that is a power of two lets it be.
///
/// A page has 4096 = 64 × 64 pixels, so the narrowest picture is 64 wide.
pub fn shape(pages: usize) -> (usize, usize) {
    let bytes = pages * PAGE_SIZE;
    let mut width = 64;
    while width * width < bytes {
        width *= 2;
    }
    (width, bytes / width)
}

/// The picture of a number, 0 to 9, that fills so many pages.
pub fn draw(number: u32, pages: usize) -> Vec<u8> {
    let (width, height) = shape(pages);
    let scale = (height / (GLYPH.1 + 2)).min(width / (GLYPH.0 + 2)).max(1);
    let digit = DIGITS[number as usize % DIGITS.len()];
    let (left, top) = (
        width.saturating_sub(GLYPH.0 * scale) / 2,
        height.saturating_sub(GLYPH.1 * scale) / 2,
    );
    let mut picture = Vec::with_capacity(width * height);
    for y in 0..height {
        for x in 0..width {
            let inside = |at: usize, from: usize, len: usize| {
                at.checked_sub(from)
                    .map(|at| at / scale)
                    .filter(|&at| at < len)
            };
            let ink = inside(x, left, GLYPH.0)
                .zip(inside(y, top, GLYPH.1))
                .is_some_and(|(x, y)| digit[y] >> (GLYPH.0 - 1 - x) & 1 == 1);
            // Each number's gradient falls in a direction of its own.
            let slope = match number % 3 {
                0 => x * 128 / width + y * 64 / height,
                1 => x * 192 / width,
                _ => y * 192 / height,
            };
            let ground = (slope as u8).wrapping_add(number as u8) % 224;
            picture.push(if ink { 255 } else { ground });
        }
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_fills_its_pages_to_the_last_byte() {
        for pages in 1..=64 {
            let (width, height) = shape(pages);
            assert_eq!(width * height, pages * PAGE_SIZE, "{pages}");
            assert!(width >= height && height >= 16, "{width}x{height}");
            assert_eq!(draw(1, pages).len(), pages * PAGE_SIZE);
        }
        assert_eq!(
            (shape(1), shape(11), shape(16)),
            ((64, 64), (256, 176), (256, 256))
        );
    }

    #[test]
    fn each_number_has_a_picture_of_its_own() {
        let pictures: Vec<Vec<u8>> = (0..10).map(|number| draw(number, 1)).collect();
        for (n, one) in pictures.iter().enumerate() {
            assert!(one.contains(&255), "{n} has no digit");
            assert!(pictures[n + 1..].iter().all(|other| other != one), "{n}");
        }
    }

    #[test]
    fn the_digit_is_the_right_way_up() {
        // A seven: a bar at the top, and nothing at the left of the last line.
        let (width, height) = shape(1);
        let picture = draw(7, 1);
        let scale = height / (GLYPH.1 + 2);
        let ink = |x: usize, y: usize| {
            let left = (width - GLYPH.0 * scale) / 2;
            let top = (height - GLYPH.1 * scale) / 2;
            picture[(top + y * scale) * width + left + x * scale] == 255
        };
        assert!((0..GLYPH.0).all(|x| ink(x, 0)) && !ink(0, GLYPH.1 - 1) && ink(1, GLYPH.1 - 1));
    }
}
