//! The pictures that a scenario took: in the page, and as files beside its logs.

use super::chart::{escape, push};
use super::dir::ReportDir;
use crate::picture::Picture;
use crate::verdict::Verdict;
use pv_harness::error::Result;

/// The pictures of a scenario, side by side, each with what it shows.
pub(super) fn section(page: &mut String, pictures: &[Picture]) {
    if pictures.is_empty() {
        return;
    }
    page.push_str("<h3>Pictures</h3><div class=\"pictures\">\n");
    for picture in pictures {
        let caption = escape(&picture.caption);
        push(
            page,
            format_args!(
                "<figure><img width=\"{}\" height=\"{}\" alt=\"{caption}\" src=\"{}\"><figcaption>{caption}</figcaption></figure>\n",
                picture.width,
                picture.height,
                picture.data_url()
            ),
        );
    }
    page.push_str("</div>\n");
}

/// Writes them beside the scenario's logs, numbered as they are shown.
///
/// # Errors
/// If the disk is full, say.
pub(super) fn write(dir: &ReportDir, verdict: &Verdict) -> Result<()> {
    for (n, picture) in verdict.pictures.iter().enumerate() {
        let name = format!("{}/picture-{}.png", verdict.logs, n + 1);
        dir.write(&name, picture.file()?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::tests::picture;
    use crate::verdict::{Outcome, tests::verdict};

    #[test]
    fn each_picture_is_in_the_page_and_a_file_of_its_own() {
        let mut verdict = verdict("scan-out", Outcome::Passed);
        verdict.pictures = vec![picture("before <i>"), picture("after")];
        let mut page = String::new();
        section(&mut page, &verdict.pictures);
        assert_eq!(page.matches("src=\"data:image/png;base64,").count(), 2);
        assert!(page.contains("before &lt;i&gt;") && !page.contains("<i>"));
        let temp = tempfile::tempdir().unwrap();
        let dir = ReportDir::claim(&temp.path().join("r")).unwrap();
        std::fs::create_dir_all(dir.path().join("runs/scan-out")).unwrap();
        write(&dir, &verdict).unwrap();
        for n in 1..=2 {
            let path = dir.path().join(format!("runs/scan-out/picture-{n}.png"));
            assert!(std::fs::read(path).unwrap().starts_with(b"\x89PNG"));
        }
    }

    #[test]
    fn a_scenario_without_pictures_has_no_place_for_them() {
        let mut page = String::new();
        section(&mut page, &[]);
        assert_eq!(page, "");
    }
}
