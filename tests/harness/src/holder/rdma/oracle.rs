//! The system's own headers as the oracle of `abi` and `netlink`. Needs gcc and linux-libc-dev.

use super::abi::*;
use super::netlink;
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::process::Command as Process;

/// C's numbers by name.
fn theirs() -> BTreeMap<String, u64> {
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("oracle");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/holder/rdma/oracle.c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let built = Process::new(compiler)
        .args(["-std=gnu11", "-Wall", "-Werror", "-o"])
        .arg(&binary)
        .arg(source)
        .output()
        .expect("a C compiler: install gcc, or set CC");
    assert!(
        built.status.success(),
        "install linux-libc-dev: {}",
        String::from_utf8_lossy(&built.stderr)
    );
    let said = Process::new(&binary).output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    let fact = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    text.lines().map(fact).collect()
}

/// A struct's size, and where those of its fields are that are set or read.
macro_rules! layout {
    ($into:ident, $c:literal, $ours:ty { $($field:ident $(= $name:literal)?),* $(,)? }) => {
        $into.insert(concat!("sizeof ", $c).to_owned(), size_of::<$ours>() as u64);
        $({
            #[allow(unused_mut, unused_assignments, reason = "most have C's name")]
            let mut name = stringify!($field);
            $(name = $name;)?
            $into.insert(format!("{}.{name}", $c), offset_of!($ours, $field) as u64);
        })*
    };
}

fn ours() -> BTreeMap<String, u64> {
    let numbers: [(&str, u64); 43] = [
        ("RDMA_VERBS_IOCTL", VERBS_IOCTL),
        ("RDMA_DRIVER_RXE", DRIVER_RXE.into()),
        ("UVERBS_OBJECT_DEVICE", OBJECT_DEVICE.into()),
        ("UVERBS_METHOD_INVOKE_WRITE", METHOD_INVOKE_WRITE.into()),
        ("UVERBS_ATTR_CORE_IN", ATTR_CORE_IN.into()),
        ("UVERBS_ATTR_CORE_OUT", ATTR_CORE_OUT.into()),
        ("UVERBS_ATTR_WRITE_CMD", ATTR_WRITE_CMD.into()),
        ("UVERBS_ATTR_UHW_OUT", ATTR_UHW_OUT.into()),
        ("UVERBS_OBJECT_MR", OBJECT_MR.into()),
        ("UVERBS_METHOD_ADVISE_MR", METHOD_ADVISE_MR.into()),
        ("UVERBS_ATTR_ADVISE_MR_PD_HANDLE", ATTR_ADVISE_PD.into()),
        ("UVERBS_ATTR_ADVISE_MR_ADVICE", ATTR_ADVISE_ADVICE.into()),
        ("UVERBS_ATTR_ADVISE_MR_FLAGS", ATTR_ADVISE_FLAGS.into()),
        ("UVERBS_ATTR_ADVISE_MR_SGE_LIST", ATTR_ADVISE_LIST.into()),
        ("IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE", PREFETCH_WRITE),
        ("IB_UVERBS_ADVISE_MR_FLAG_FLUSH", FLUSH),
        ("UVERBS_ATTR_F_MANDATORY", MANDATORY.into()),
        ("UVERBS_METHOD_GET_CONTEXT", METHOD_GET_CONTEXT.into()),
        (
            "UVERBS_ATTR_GET_CONTEXT_NUM_COMP_VECTORS",
            ATTR_COMP_VECTORS.into(),
        ),
        ("IB_USER_VERBS_CMD_ALLOC_PD", Command::AllocPd as u64),
        ("IB_USER_VERBS_CMD_REG_MR", Command::RegMr as u64),
        (
            "IB_USER_VERBS_CMD_CREATE_COMP_CHANNEL",
            Command::CreateCompChannel as u64,
        ),
        ("IB_USER_VERBS_CMD_CREATE_CQ", Command::CreateCq as u64),
        (
            "IB_USER_VERBS_CMD_REQ_NOTIFY_CQ",
            Command::ReqNotifyCq as u64,
        ),
        ("IB_USER_VERBS_CMD_CREATE_QP", Command::CreateQp as u64),
        ("IB_USER_VERBS_CMD_MODIFY_QP", Command::ModifyQp as u64),
        ("IB_USER_VERBS_CMD_POST_SEND", Command::PostSend as u64),
        ("IB_UVERBS_ACCESS_LOCAL_WRITE", LOCAL_WRITE.into()),
        ("IB_UVERBS_ACCESS_REMOTE_WRITE", REMOTE_WRITE.into()),
        ("IB_UVERBS_ACCESS_ON_DEMAND", ON_DEMAND.into()),
        ("IB_UVERBS_QPT_RC", QPT_RC.into()),
        ("IB_UVERBS_WR_RDMA_WRITE", WR_RDMA_WRITE.into()),
        ("sizeof(struct ib_uverbs_send_wr)", SEND_WR_BYTES.into()),
        ("sizeof rxe_create_cq_resp", size_of::<MmapInfo>() as u64),
        ("rxe_queue_buf.producer_index", QUEUE_PRODUCER as u64),
        ("rxe_queue_buf.data", QUEUE_DATA as u64),
        ("ib_uverbs_wc.status", COMPLETION_STATUS as u64),
        (
            "RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, RDMA_NLDEV_CMD_NEWLINK)",
            netlink::NEWLINK.into(),
        ),
        ("RDMA_NLDEV_ATTR_DEV_NAME", netlink::ATTR_DEV_NAME.into()),
        ("RDMA_NLDEV_ATTR_NDEV_NAME", netlink::ATTR_NDEV_NAME.into()),
        ("RDMA_NLDEV_ATTR_LINK_TYPE", netlink::ATTR_LINK_TYPE.into()),
        ("NLM_F_REQUEST | NLM_F_ACK", netlink::ASKING.into()),
        ("NLMSG_ERROR", netlink::ERROR.into()),
    ];
    let mut all: BTreeMap<String, u64> = numbers.map(|(name, value)| (name.into(), value)).into();
    all.insert("NLMSG_HDRLEN".into(), netlink::HEADER as u64);
    all.insert("RTM_NEWLINK".into(), netlink::RTM_NEWLINK.into());
    all.insert("IFF_UP".into(), netlink::IFF_UP.into());
    all.insert("sizeof ifinfomsg".into(), netlink::INTERFACE_MESSAGE as u64);
    layout!(
        all,
        "ib_uverbs_ioctl_hdr",
        Header {
            length,
            object_id,
            method_id,
            num_attrs,
            driver_id
        }
    );
    layout!(
        all,
        "ib_uverbs_attr",
        Attribute {
            attr_id,
            len,
            flags,
            data
        }
    );
    layout!(all, "ib_uverbs_alloc_pd", AllocPd {});
    layout!(all, "ib_uverbs_alloc_pd_resp", AllocPdResp {});
    layout!(
        all,
        "ib_uverbs_reg_mr",
        RegMr {
            start,
            length,
            hca_va,
            pd_handle,
            access_flags
        }
    );
    layout!(all, "ib_uverbs_reg_mr_resp", RegMrResp { lkey, rkey });
    layout!(all, "ib_uverbs_create_comp_channel", CreateCompChannel {});
    layout!(
        all,
        "ib_uverbs_create_comp_channel_resp",
        CreateCompChannelResp {}
    );
    layout!(all, "ib_uverbs_create_cq", CreateCq { cqe, comp_channel });
    layout!(all, "ib_uverbs_create_cq_resp", CreateCqResp { cq_handle });
    layout!(all, "mminfo", MmapInfo {});
    layout!(all, "rxe_create_qp_resp", RxeCreateQpResp { sq_offset = "sq_mi.offset", sq_size = "sq_mi.size" });
    layout!(
        all,
        "ib_uverbs_create_qp",
        CreateQp {
            pd_handle,
            send_cq_handle,
            recv_cq_handle,
            max_send_wr,
            max_recv_wr,
            max_send_sge,
            max_recv_sge,
            max_inline_data,
            qp_type,
        }
    );
    layout!(all, "ib_uverbs_create_qp_resp", CreateQpResp { qpn });
    layout!(all, "ib_uverbs_modify_qp", ModifyQp {
        dgid = "dest.dgid", sgid_index = "dest.sgid_index", hop_limit = "dest.hop_limit",
        is_global = "dest.is_global", dest_port = "dest.port_num", qp_handle, attr_mask, dest_qp_num,
        qp_access_flags, qp_state, path_mtu, port_num, retry_cnt,
    });
    layout!(all, "ib_uverbs_req_notify_cq", ReqNotifyCq {});
    layout!(
        all,
        "ib_uverbs_post_send",
        PostSend {
            qp_handle,
            wqe_size
        }
    );
    layout!(all, "ib_uverbs_post_send_resp", PostSendResp {});
    layout!(all, "rxe_send_wqe", SendWqe {
        wr_id = "wr.wr_id", opcode = "wr.opcode", send_flags = "wr.send_flags",
        remote_addr = "wr.wr.rdma.remote_addr", rkey = "wr.wr.rdma.rkey", status, state, iova,
        length = "dma.length", resid = "dma.resid", num_sge = "dma.num_sge",
        inline_data = "dma.inline_data",
    });
    // The data follows the struct.
    all.insert(
        "sizeof rxe_send_wqe".into(),
        offset_of!(SendWqe, inline_data) as u64,
    );
    layout!(all, "ib_uverbs_sge", Sge { addr, length, lkey });
    all
}

#[test]
fn the_systems_headers_agree() {
    let (ours, theirs) = (ours(), theirs());
    let wrong: Vec<String> = theirs
        .iter()
        .filter(|(name, value)| ours.get(*name) != Some(value))
        .map(|(name, value)| format!("{name}: theirs {value}, ours {:?}", ours.get(name)))
        .chain(
            ours.keys()
                .filter(|name| !theirs.contains_key(*name))
                .cloned(),
        )
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
