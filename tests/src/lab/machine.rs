//! One QEMU process with Xen in it, in software emulation: started, watched by its serial log,
//! ended by its own power-off or by the deadline, never left behind.

use super::error::{LabError, Result};
use super::packages::cannot_run;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const QEMU: &str = "qemu-system-x86_64";
const INSTALL_QEMU: &str =
    "apt-get install --no-install-recommends qemu-system-x86 seabios ipxe-qemu";

/// Finds QEMU before anything else is done.
///
/// # Errors
/// It is not there.
pub fn check_installed() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join(QEMU).is_file()) {
        Ok(())
    } else {
        Err(LabError::Missing {
            program: QEMU,
            install: INSTALL_QEMU,
        })
    }
}

/// What boots.
pub struct Boot<'a> {
    /// The hypervisor: an ELF32 multiboot image.
    pub xen: &'a Path,
    /// dom0's kernel.
    pub kernel: &'a Path,
    /// dom0's initramfs.
    pub initramfs: &'a Path,
    /// A raw disk that dom0 writes its results to.
    pub results: &'a Path,
    /// Where the serial port's output goes.
    pub serial: &'a Path,
    /// True: standard input and output are dom0's console.
    pub interactive: bool,
}

/// A machine that runs.
pub struct Machine {
    qemu: Child,
    serial: PathBuf,
    read: u64,
    pending: Vec<u8>,
}

impl Machine {
    /// Starts QEMU. The CPU model is the one in which PV dom0 and PVH domains both come up without
    /// hardware virtualisation: nested paging for PVH, and no SMAP, which stops a PV dom0.
    ///
    /// One processor, because its emulation delivers an interrupt to a guest twice, which kills it,
    /// when something else than an interrupt stops the processor after VMRUN has injected one
    /// (`helper_vmrun`, `target/i386/tcg/sysemu/svm_helper.c`, leaves `exception_index` set). With two,
    /// each stops the other for that often enough to lose a domain in most runs.
    ///
    /// # Errors
    /// QEMU is not installed.
    pub fn start(boot: &Boot<'_>) -> Result<Machine> {
        File::create(boot.serial).map_err(LabError::file(boot.serial))?;
        // The kernel ends QEMU when we end, however that comes about.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", QEMU])
            .args([
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "qemu64,+svm,+npt,+nrip-save",
            ])
            .args([
                "-smp",
                "1",
                "-m",
                "3072",
                "-display",
                "none",
                "-no-reboot",
                "-nic",
                "none",
            ])
            .arg("-kernel")
            .arg(boot.xen)
            .args([
                "-append",
                "console=com1 dom0_mem=1024M loglvl=warning guest_loglvl=warning conring_size=1M",
            ])
            .arg("-initrd")
            .arg(format!(
                "{} console=hvc0 quiet,{}",
                boot.kernel.display(),
                boot.initramfs.display()
            ))
            .arg("-drive")
            .arg(format!(
                "file={},if=virtio,format=raw,cache=unsafe",
                boot.results.display()
            ));
        if boot.interactive {
            command.arg("-chardev").arg(format!(
                "stdio,id=com1,signal=off,logfile={}",
                boot.serial.display()
            ));
            command.args(["-serial", "chardev:com1"]);
        } else {
            command
                .arg("-serial")
                .arg(format!("file:{}", boot.serial.display()));
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
        command.arg("-monitor").arg("none").stderr(Stdio::piped());
        let qemu = command
            .spawn()
            .map_err(|error| cannot_run("setpriv", "apt-get install util-linux", error))?;
        Ok(Machine {
            qemu,
            serial: boot.serial.to_owned(),
            read: 0,
            pending: Vec::new(),
        })
    }

    /// The lines that the serial port said since the last call.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn new_lines(&mut self) -> Result<Vec<String>> {
        let mut file = File::open(&self.serial).map_err(LabError::file(&self.serial))?;
        file.seek(SeekFrom::Start(self.read))
            .map_err(LabError::file(&self.serial))?;
        let n = file
            .read_to_end(&mut self.pending)
            .map_err(LabError::file(&self.serial))?;
        self.read += n as u64;
        let mut lines = Vec::new();
        while let Some(end) = self.pending.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        Ok(lines)
    }

    /// True once QEMU has ended (dom0 powered off, or Xen gave up).
    ///
    /// # Errors
    /// If the machine's processes cannot be asked.
    pub fn has_ended(&mut self) -> Result<bool> {
        let status = self
            .qemu
            .try_wait()
            .map_err(LabError::file(Path::new("qemu")))?;
        let Some(status) = status else {
            return Ok(false);
        };
        if status.success() {
            return Ok(true);
        }
        let mut said = String::new();
        if let Some(stderr) = &mut self.qemu.stderr {
            let _ = stderr.read_to_string(&mut said);
        }
        Err(LabError::Failed {
            doing: format!("running {QEMU}"),
            cause: format!("{status}: {}", said.trim()),
            cure: "see its message".into(),
        })
    }

    /// Feeds lines to `each` until the machine ends or the deadline comes. `each` may give another
    /// deadline.
    ///
    /// # Errors
    /// [`LabError::Guest`] with the log's tail, at the deadline or when `each` says why.
    pub fn watch(
        &mut self,
        mut deadline: Instant,
        each: &mut dyn FnMut(&str) -> std::result::Result<Option<Instant>, String>,
    ) -> Result<()> {
        /// A file has no event that says it grew; QEMU's exit has none that comes with it.
        const LOOK: Duration = Duration::from_millis(100);
        loop {
            let ended = self.has_ended()?;
            for line in self.new_lines()? {
                if let Some(other) = each(&line).map_err(|what| self.guest(what))? {
                    deadline = other;
                }
            }
            if ended {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.guest("the deadline passed and the machine still runs".into()));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for the machine's end, whenever it comes.
    ///
    /// # Errors
    /// QEMU failed.
    pub fn wait(&mut self) -> Result<()> {
        self.qemu.wait().map_err(LabError::file(Path::new(QEMU)))?;
        self.has_ended().map(|_| ())
    }

    fn guest(&self, what: String) -> LabError {
        LabError::Guest {
            what,
            log: self.serial.clone(),
            tail: tail(&self.serial, 25),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Ok(None) = self.qemu.try_wait() {
            let _ = self.qemu.kill();
        }
        let _ = self.qemu.wait();
    }
}

/// The last lines of a log.
pub fn tail(log: &Path, lines: usize) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
