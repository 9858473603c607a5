use super::*;

#[test]
fn every_offset_and_length_survives_the_round_trip() {
    let a = SharedPages::anonymous(1).expect("memory");
    let b = SharedPages::anonymous(1).expect("memory");
    let pattern: Vec<u8> = (0..200u8).collect();
    // Miri is a hundred times slower: a prime step meets every alignment too.
    let step = if cfg!(miri) { 7 } else { 1 };
    for offset in (0..40).step_by(step) {
        for len in (0..80).step_by(step) {
            a.fill(0, 200, 0xff);
            a.write(offset, &pattern[..len]);
            let mut back = vec![0; len];
            a.read(offset, &mut back);
            assert_eq!(back, pattern[..len]);
            assert_eq!(
                a.load_u8(offset + len, Ordering::Relaxed),
                0xff,
                "wrote past the end"
            );
            let into = (offset * 7) % 33;
            b.fill(0, 200, 0xee);
            a.copy_to(offset, &b, into, len);
            b.read(into, &mut back);
            assert_eq!(back, pattern[..len]);
            assert_eq!(
                b.load_u8(into + len, Ordering::Relaxed),
                0xee,
                "copied past the end"
            );
        }
    }
}

#[test]
fn a_long_copy_between_places_of_other_alignment_is_whole() {
    let (a, b) = (SharedPages::anonymous(1), SharedPages::anonymous(1));
    let (a, b) = (a.expect("memory"), b.expect("memory"));
    let pattern: Vec<u8> = (0..3 * PRIVATE + 7).map(|n| (n % 251) as u8).collect();
    a.write(1, &pattern);
    a.copy_to(1, &b, 18, pattern.len());
    let mut back = vec![0; pattern.len()];
    b.read(18, &mut back);
    assert!(back == pattern);
    assert_eq!(b.load_u8(17, Ordering::Relaxed), 0);
    assert_eq!(b.load_u8(18 + pattern.len(), Ordering::Relaxed), 0);
}

#[test]
#[should_panic(expected = "outside")]
fn outside_is_a_panic_not_a_read() {
    SharedPages::anonymous(1)
        .expect("memory")
        .read(PAGE_SIZE - 3, &mut [0; 4]);
}

#[test]
#[should_panic(expected = "overlapping")]
fn overlap_is_refused() {
    let a = SharedPages::anonymous(1).expect("memory");
    a.copy_to(0, &a, 8, 16);
}

#[test]
fn file_io_goes_straight_to_the_pages() {
    use std::os::fd::AsFd;
    let file = tempfile::tempfile().expect("file");
    let a = SharedPages::anonymous(1).expect("memory");
    a.write(10, b"granted");
    assert_eq!(a.write_to_file(10, 7, file.as_fd(), 100), Ok(7));
    a.fill(0, 64, 0);
    assert_eq!(a.read_from_file(20, 50, file.as_fd(), 100), Ok(7));
    let mut back = [0; 7];
    a.read(20, &mut back);
    assert_eq!(&back, b"granted");
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no memfd")]
fn only_a_file_that_cannot_shrink_is_mapped_and_only_for_the_access_it_allows() {
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = memfd_create("pages", flags).expect("memfd");
    ftruncate(&memfd, 2 * PAGE_SIZE as u64).expect("size");
    let refused = SharedPages::of_memfd(&memfd, 1, Access::ReadWrite).expect_err("it may shrink");
    assert!(refused.to_string().contains("F_SEAL_SHRINK"), "{refused}");
    fcntl_add_seals(&memfd, SealFlags::SHRINK).expect("seal");
    let pages = SharedPages::of_memfd(&memfd, 2, Access::ReadWrite).expect("map");
    pages.write(PAGE_SIZE, b"seen");
    let read_only = SharedPages::of_memfd(&memfd, 2, Access::ReadOnly).expect("map");
    let mut text = [0; 4];
    read_only.read(PAGE_SIZE, &mut text);
    assert_eq!(&text, b"seen");
    for pages in [0, 3, usize::MAX] {
        SharedPages::of_memfd(&memfd, pages, Access::ReadOnly).expect_err("not so many");
    }
    let file = tempfile::tempfile().expect("file");
    file.set_len(PAGE_SIZE as u64).expect("size");
    SharedPages::of_memfd(&file, 1, Access::ReadOnly).expect_err("no memfd");
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no memfd")]
#[should_panic(expected = "read-only")]
fn a_write_to_a_read_only_mapping_is_a_panic_not_a_fault() {
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = memfd_create("pages", flags).expect("memfd");
    ftruncate(&memfd, PAGE_SIZE as u64).expect("size");
    fcntl_add_seals(&memfd, SealFlags::SHRINK).expect("seal");
    let pages = SharedPages::of_memfd(&memfd, 1, Access::ReadOnly).expect("map");
    pages.write(0, b"fault");
}
