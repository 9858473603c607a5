//! The machine that runs: QEMU with Xen in it.
//!
//! Each module uses only what is above it:
//!
//! 1. [`processor`]: which processor of this machine it runs on.
//! 2. [`monitor`]: QEMU's monitor, asked when the machine stands still.
//! 3. [`watch`]: does the machine still live?
//! 4. [`boot`]: what boots, and the words that start QEMU with it.
//! 5. [`loss`]: how a machine was lost.
//! 6. [`serial`]: runs a machine to its end, heard through its serial port.
//! 7. [`terminal`]: runs one whose console is this terminal.
//! 8. [`course`]: which suite is on, and what follows when the machine is lost.
//! 9. [`listener`]: understands what comes over the serial port.

pub mod processor;

pub mod monitor;

pub mod watch;

pub mod boot;

pub mod loss;

pub mod serial;

pub mod terminal;

pub mod course;

pub mod listener;
