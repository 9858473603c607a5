//! The kernel's own drivers. Where one is bound to a device, it and a process would write into the
//! same directory of xenstore, and map or grant over each other.
//!
//! Linux binds a driver to each device of its class that appears in xenstore (xen-blkfront and
//! xen-blkback to `vbd`), and shows that as a link in sysfs
//! (`Documentation/driver-api/driver-model/overview.rst`; `drivers/xen/xenbus/xenbus_probe_frontend.c`,
//! `xenbus_probe_backend.c`, Linux 5.10 to 6.12).

use super::class::DeviceClass;
use super::device_id::DeviceId;
use libgnt::{DomId, Platform};
use std::fmt;
use std::path::{Path, PathBuf};

/// Which end of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// On the bus `xen`, as `CLASS-NUMBER`.
    Front,
    /// On the bus `xen-backend`, as `CLASS-FRONT-NUMBER`.
    Back {
        /// Whose device it serves.
        front_domid: DomId,
    },
}

/// A driver of the kernel's that has taken a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct DriverBound {
    /// The kernel's name of the device: `vbd-51712`.
    pub device: String,
    /// The bus: `xen` or `xen-backend`.
    pub bus: &'static str,
    /// The driver: `vbd`.
    pub driver: String,
    /// Its module, such as `xen_blkfront`; `None` if the kernel has it built in.
    pub module: Option<String>,
}

impl fmt::Display for DriverBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DriverBound {
            device,
            bus,
            driver,
            module,
        } = self;
        write!(f, "the kernel's own driver {driver} ")?;
        match module {
            Some(module) => write!(f, "(module {module})")?,
            None => f.write_str("(built into the kernel)")?,
        }
        write!(
            f,
            " has taken {device}, and would work on the same device; unbind it with \
             `echo {device} > /sys/bus/{bus}/drivers/{driver}/unbind`"
        )?;
        if let Some(module) = module {
            write!(
                f,
                ", or keep the module from being loaded (`blacklist {module}` in /etc/modprobe.d)"
            )?;
        }
        f.write_str(", or give the device a class of its own, when it is created and at both ends")
    }
}

/// Refuses a device while this kernel's own driver has it. To be asked at the start, and again before
/// each connection: a module may be loaded at any time, and a kernel hears of a new device no sooner than
/// a process does.
#[derive(Clone, Debug)]
pub struct KernelCheck {
    /// Nowhere, if `None`.
    sysfs: Option<PathBuf>,
    side: Side,
    class: DeviceClass,
    devid: DeviceId,
}

impl KernelCheck {
    /// `sysfs` is where the kernel's drivers are shown; without it, `/sys` on the platform `linux`, and
    /// nowhere on the simulated Xen, whose devices no kernel sees.
    pub fn new(
        platform: &dyn Platform,
        sysfs: Option<&Path>,
        side: Side,
        class: &DeviceClass,
        devid: DeviceId,
    ) -> KernelCheck {
        let default = || (platform.name() == "linux").then(|| PathBuf::from("/sys"));
        KernelCheck {
            sysfs: sysfs.map(Path::to_owned).or_else(default),
            side,
            class: class.clone(),
            devid,
        }
    }

    /// Looks now.
    ///
    /// # Errors
    /// [`DriverBound`].
    pub fn look(&self) -> Result<(), DriverBound> {
        let Some(sysfs) = &self.sysfs else {
            return Ok(());
        };
        bound_driver(sysfs, self.side, &self.class, self.devid).map_or(Ok(()), Err)
    }
}

/// The driver that a sysfs shows as bound to a device: `bus/xen/devices/vbd-51712/driver` is a link
/// to the driver's directory, in which `module` is a link to the module's. `None` too where there is
/// no such bus, or no such device yet.
pub fn bound_driver(
    sysfs: &Path,
    side: Side,
    class: &DeviceClass,
    devid: DeviceId,
) -> Option<DriverBound> {
    let (bus, device) = match side {
        Side::Front => ("xen", format!("{class}-{devid}")),
        Side::Back { front_domid } => ("xen-backend", format!("{class}-{}-{devid}", front_domid.0)),
    };
    let link = sysfs.join(format!("bus/{bus}/devices/{device}/driver"));
    let target = |link: PathBuf| {
        let target = std::fs::read_link(link).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    };
    Some(DriverBound {
        driver: target(link.clone())?,
        module: target(link.join("module")),
        device,
        bus,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const BACK: Side = Side::Back {
        front_domid: DomId(7),
    };

    fn bound(sysfs: &Path, side: Side, class: &'static str) -> Option<DriverBound> {
        bound_driver(sysfs, side, &DeviceClass::new(class), DeviceId(51712))
    }

    /// As Linux has it: the device's link leads to the driver, the driver's to its module.
    fn bind(sysfs: &Path, bus: &str, device: &str, driver: &str, module: Option<&str>) {
        let devices = sysfs.join("devices").join(device);
        let drivers = sysfs.join("bus").join(bus).join("drivers").join(driver);
        let on_bus = sysfs.join("bus").join(bus).join("devices");
        for dir in [&devices, &drivers, &on_bus] {
            std::fs::create_dir_all(dir).unwrap();
        }
        symlink(format!("../../../devices/{device}"), on_bus.join(device)).unwrap();
        let to_driver = format!("../../bus/{bus}/drivers/{driver}");
        symlink(to_driver, devices.join("driver")).unwrap();
        if let Some(module) = module {
            let of_module = sysfs.join("module").join(module);
            std::fs::create_dir_all(&of_module).unwrap();
            symlink(
                format!("../../../../module/{module}"),
                drivers.join("module"),
            )
            .unwrap();
        }
    }

    #[test]
    fn the_bound_driver_is_named_and_how_to_be_rid_of_it() {
        let sysfs = tempfile::tempdir().unwrap();
        let sysfs = sysfs.path();
        assert_eq!(bound(sysfs, Side::Front, "vbd"), None, "no Xen");
        bind(sysfs, "xen", "vbd-51712", "vbd", Some("xen_blkfront"));
        bind(sysfs, "xen-backend", "vbd-7-51712", "vbd", None);
        let front = bound(sysfs, Side::Front, "vbd").unwrap();
        assert_eq!(front.module.as_deref(), Some("xen_blkfront"));
        let text = front.to_string();
        for part in [
            "driver vbd (module xen_blkfront)",
            "`echo vbd-51712 > /sys/bus/xen/drivers/vbd/unbind`",
            "`blacklist xen_blkfront`",
            "a class of its own, when it is created and at both ends",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let back = bound(sysfs, BACK, "vbd").unwrap();
        assert_eq!(back.module, None);
        let text = back.to_string();
        for part in [
            "driver vbd (built into the kernel)",
            "`echo vbd-7-51712 > /sys/bus/xen-backend/drivers/vbd/unbind`",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("blacklist"), "{text}");
    }

    #[test]
    fn a_device_without_a_driver_or_of_another_class_is_free() {
        let sysfs = tempfile::tempdir().unwrap();
        let sysfs = sysfs.path();
        bind(sysfs, "xen", "vbd-51712", "vbd", Some("xen_blkfront"));
        for side in [Side::Front, BACK] {
            assert_eq!(bound(sysfs, side, "pvstress"), None);
        }
        assert_eq!(bound(sysfs, BACK, "vbd"), None);
        // The driver was unbound: the device stays.
        std::fs::remove_file(sysfs.join("devices/vbd-51712/driver")).unwrap();
        assert_eq!(bound(sysfs, Side::Front, "vbd"), None);
    }
}
