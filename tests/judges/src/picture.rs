//! Pictures that a run took, for people to look at.

use base64::prelude::{BASE64_STANDARD, Engine};
use pv_harness::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// One picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// What it shows.
    pub caption: String,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
    /// A PNG file, in base64.
    png: String,
}

impl Picture {
    /// Of grey bytes, line by line.
    ///
    /// # Errors
    /// They are not as many as width and height say.
    pub fn grey(caption: &str, (width, height): (usize, usize), bytes: &[u8]) -> Result<Picture> {
        let strange = |cause: String| {
            Error::environment(
                format!("the picture {caption:?}"),
                cause,
                "report this as a bug",
            )
        };
        let narrow = |n: usize| u32::try_from(n).map_err(|error| strange(error.to_string()));
        let (width, height) = (narrow(width)?, narrow(height)?);
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width, height);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Eight);
        let written = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(bytes)?;
            writer.finish()
        });
        written.map_err(|error| strange(error.to_string()))?;
        Ok(Picture {
            caption: caption.into(),
            width,
            height,
            png: BASE64_STANDARD.encode(file),
        })
    }

    /// The PNG file.
    ///
    /// # Errors
    /// It came from a damaged report.
    pub fn file(&self) -> Result<Vec<u8>> {
        BASE64_STANDARD.decode(&self.png).map_err(|error| {
            let what = format!("the picture {:?}", self.caption);
            Error::environment(&what, error, "run it again: the report is damaged")
        })
    }

    /// Where a page finds it, in the page itself.
    pub(crate) fn data_url(&self) -> String {
        format!("data:image/png;base64,{}", self.png)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pv_harness::picture::{draw, shape};

    pub(crate) fn picture(caption: &str) -> Picture {
        Picture::grey(caption, shape(2), &draw(4, 2)).unwrap()
    }

    #[test]
    fn a_picture_is_the_bytes_that_were_taken() {
        let picture = picture("x");
        let file = picture.file().unwrap();
        let decoder = png::Decoder::new(std::io::Cursor::new(file));
        let mut reader = decoder.read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        assert_eq!((info.width, info.height), (picture.width, picture.height));
        assert_eq!(bytes, draw(4, 2));
    }

    #[test]
    fn bytes_that_are_no_picture_are_refused() {
        let error = Picture::grey("x", (64, 64), &[0; 64]).unwrap_err();
        assert!(error.to_string().contains("the picture \"x\""), "{error}");
    }
}
