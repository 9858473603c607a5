//! Who may do what.

use super::run;

#[test]
fn permissions() {
    run(&[
        // Another's home: what is not allowed is EACCES, there or not.
        ("1 READ /local/domain/2/domid", "EACCES", &[]),
        ("1 READ /local/domain/2/none", "EACCES", &[]),
        ("1 WRITE domid|7~", "EACCES", &[]),
        ("1 WRITE device/vbd/x|7~", "EACCES", &[]),
        ("1 RM domid", "EACCES", &[]),
        ("1 READ /", "EACCES", &[]),
        // The owner's and its gifts.
        ("1 WRITE data/gift|x~", "OK", &[]),
        ("1 GET_PERMS data/gift", "n1", &[]),
        ("2 READ /local/domain/1/data/gift", "EACCES", &[]),
        ("1 SET_PERMS data/gift|n1|r2|w3", "OK", &[]),
        ("2 READ /local/domain/1/data/gift", "x", &[]),
        ("2 WRITE /local/domain/1/data/gift|y~", "EACCES", &[]),
        ("2 SET_PERMS /local/domain/1/data/gift|b2", "EACCES", &[]),
        ("3 READ /local/domain/1/data/gift", "EACCES", &[]),
        ("3 WRITE /local/domain/1/data/gift|y~", "OK", &[]),
        ("1 SET_PERMS data/gift|n2", "EPERM", &[]),
        // A new node has its parent's permissions, under its creator.
        ("3 WRITE /local/domain/1/data/gift/below|z~", "OK", &[]),
        (
            "0 GET_PERMS /local/domain/1/data/gift/below",
            "n3|r2|w3",
            &[],
        ),
        ("1 READ data/gift/below", "EACCES", &[]),
        // dom0's creations keep the parent's owner.
        ("0 WRITE /local/domain/1/data/by-dom0|x~", "OK", &[]),
        ("0 GET_PERMS /local/domain/1/data/by-dom0", "n1", &[]),
        // Everybody.
        ("0 WRITE /public|x~", "OK", &[]),
        ("0 SET_PERMS /public|r0", "OK", &[]),
        ("3 READ /public", "x", &[]),
        ("3 WRITE /public|y~", "EACCES", &[]),
        // Special watches' permissions are dom0's to give.
        ("1 GET_PERMS @releaseDomain", "EINVAL", &[]),
        ("1 SET_PERMS @releaseDomain|r1", "EACCES", &[]),
        ("0 SET_PERMS @releaseDomain|n0|r1", "OK", &[]),
        // What only dom0 may.
        ("1 INTRODUCE 9|0|0", "EACCES", &[]),
        ("1 RELEASE 2", "EACCES", &[]),
        ("1 RESUME 2", "EACCES", &[]),
        ("1 IS_DOMAIN_INTRODUCED 1", "EACCES", &[]),
        ("1 SET_TARGET 1|2", "EACCES", &[]),
        ("1 CONTROL help", "EACCES", &[]),
        // A stub domain's target.
        ("0 SET_TARGET 3|2", "OK", &[]),
        ("3 READ /local/domain/2/domid", "2", &[]),
        ("3 READ /local/domain/1/domid", "EACCES", &[]),
    ]);
}
