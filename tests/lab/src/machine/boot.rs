//! What boots, and the words that start QEMU with it.

use crate::build::emulator::Emulator;
use crate::error::{LabError, Result};
use std::path::{Path, PathBuf};

/// What boots.
pub struct Boot<'a> {
    /// What emulates the machine.
    pub emulator: &'a Emulator,
    /// On which processor of this machine.
    pub processor: usize,
    /// In MiB.
    pub memory: u32,
    /// The hypervisor: an ELF32 multiboot image.
    pub xen: &'a Path,
    /// Its command line.
    pub xen_words: String,
    /// dom0's kernel.
    pub kernel: &'a Path,
    /// Its command line.
    pub kernel_words: String,
    /// dom0's initramfs.
    pub initramfs: &'a Path,
    /// A raw disk that dom0 writes its results to.
    pub results: &'a Path,
    /// Where the serial port's output goes.
    pub serial: &'a Path,
    /// Where QEMU's monitor listens. A Unix socket's path is short.
    pub monitor: &'a Path,
}

impl Boot<'_> {
    /// The words that start QEMU. The CPU model is the one in which PV dom0 and PVH domains both
    /// come up without hardware virtualisation: nested paging for PVH, and no SMAP, which stops a PV
    /// dom0.
    ///
    /// One emulated processor, because the emulation delivers an interrupt to a guest twice, which
    /// kills it, when something else than an interrupt stops the processor after VMRUN has injected
    /// one (`docs/findings/qemu-interrupt-twice.md`). With two, each stops the other for that often
    /// enough to lose a domain in most runs.
    pub fn words(&self, serial: &str) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        // In most of QEMU's options a comma begins the next part, and two are one.
        let part = |text: &str| text.replace(',', ",,");
        let mut words = self.emulator.bound(self.processor);
        let options = [
            ("-accel", "tcg,thread=multi".into()),
            ("-cpu", "qemu64,+svm,+npt,+nrip-save".into()),
            ("-smp", "1".into()),
            ("-m", self.memory.to_string()),
            ("-display", "none".into()),
            ("-nic", "none".into()),
            ("-kernel", text(self.xen)),
            ("-append", self.xen_words.clone()),
            (
                "-initrd",
                format!(
                    "{} {},{}",
                    part(&text(self.kernel)),
                    part(&self.kernel_words),
                    part(&text(self.initramfs))
                ),
            ),
            (
                "-drive",
                format!(
                    "file={},if=virtio,format=raw,cache=unsafe",
                    part(&text(self.results))
                ),
            ),
            (
                "-chardev",
                format!("{serial},id=com1,logfile={}", part(&text(self.serial))),
            ),
            ("-serial", "chardev:com1".into()),
            ("-monitor", "none".into()),
            (
                "-qmp",
                format!("unix:{},server=on,wait=off", part(&text(self.monitor))),
            ),
        ];
        words.push("-no-reboot".into());
        for (option, value) in options {
            words.extend([option.to_owned(), value]);
        }
        words
    }
}

/// A place for a socket whose path is short enough, whatever the cache's is.
///
/// # Errors
/// No temporary directory can be made.
pub fn socket_dir() -> Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("pv-lab-")
        .tempdir()
        .map_err(LabError::file(&std::env::temp_dir()))
}

/// The name of the log of an earlier start.
pub fn earlier(serial: &Path, start: usize) -> PathBuf {
    serial.with_file_name(format!("serial.{start}.log"))
}
