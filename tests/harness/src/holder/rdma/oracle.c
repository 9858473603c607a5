// What the system's own headers say of the structs and numbers in abi.rs and netlink.rs.
#include <stddef.h>
#include <stdio.h>
#include <linux/if.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <rdma/ib_user_verbs.h>
#include <rdma/ib_user_ioctl_cmds.h>
#include <rdma/ib_user_ioctl_verbs.h>
#include <rdma/rdma_netlink.h>
#include <rdma/rdma_user_ioctl_cmds.h>
#include <rdma/rdma_user_rxe.h>

#define N(name) printf("%s %llu\n", #name, (unsigned long long)(name))
#define S(type) printf("sizeof %s %zu\n", #type, sizeof(struct type))
#define F(type, field) printf("%s.%s %zu\n", #type, #field, offsetof(struct type, field))

int main(void)
{
	N(RDMA_VERBS_IOCTL);
	N(RDMA_DRIVER_RXE);
	N(UVERBS_OBJECT_DEVICE);
	N(UVERBS_METHOD_INVOKE_WRITE);
	N(UVERBS_ATTR_CORE_IN);
	N(UVERBS_ATTR_CORE_OUT);
	N(UVERBS_ATTR_WRITE_CMD);
	N(UVERBS_ATTR_UHW_OUT);
	N(UVERBS_METHOD_GET_CONTEXT);
	N(UVERBS_ATTR_GET_CONTEXT_NUM_COMP_VECTORS);
	N(UVERBS_OBJECT_MR);
	N(UVERBS_METHOD_ADVISE_MR);
	N(UVERBS_ATTR_ADVISE_MR_PD_HANDLE);
	N(UVERBS_ATTR_ADVISE_MR_ADVICE);
	N(UVERBS_ATTR_ADVISE_MR_FLAGS);
	N(UVERBS_ATTR_ADVISE_MR_SGE_LIST);
	N(IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE);
	N(IB_UVERBS_ADVISE_MR_FLAG_FLUSH);
	N(UVERBS_ATTR_F_MANDATORY);
	N(IB_USER_VERBS_CMD_ALLOC_PD);
	N(IB_USER_VERBS_CMD_REG_MR);
	N(IB_UVERBS_ACCESS_LOCAL_WRITE);
	N(IB_USER_VERBS_CMD_CREATE_COMP_CHANNEL);
	N(IB_USER_VERBS_CMD_CREATE_CQ);
	N(IB_USER_VERBS_CMD_REQ_NOTIFY_CQ);
	N(IB_USER_VERBS_CMD_CREATE_QP);
	N(IB_USER_VERBS_CMD_MODIFY_QP);
	N(IB_USER_VERBS_CMD_POST_SEND);
	N(IB_UVERBS_ACCESS_REMOTE_WRITE);
	N(IB_UVERBS_ACCESS_ON_DEMAND);
	N(IB_UVERBS_QPT_RC);
	N(IB_UVERBS_WR_RDMA_WRITE);
	S(ib_uverbs_ioctl_hdr);
	F(ib_uverbs_ioctl_hdr, length);
	F(ib_uverbs_ioctl_hdr, object_id);
	F(ib_uverbs_ioctl_hdr, method_id);
	F(ib_uverbs_ioctl_hdr, num_attrs);
	F(ib_uverbs_ioctl_hdr, driver_id);
	S(ib_uverbs_attr);
	F(ib_uverbs_attr, attr_id);
	F(ib_uverbs_attr, len);
	F(ib_uverbs_attr, flags);
	F(ib_uverbs_attr, data);
	S(ib_uverbs_alloc_pd);
	S(ib_uverbs_alloc_pd_resp);
	S(ib_uverbs_reg_mr);
	F(ib_uverbs_reg_mr, start);
	F(ib_uverbs_reg_mr, length);
	F(ib_uverbs_reg_mr, hca_va);
	F(ib_uverbs_reg_mr, pd_handle);
	F(ib_uverbs_reg_mr, access_flags);
	S(ib_uverbs_reg_mr_resp);
	F(ib_uverbs_reg_mr_resp, lkey);
	F(ib_uverbs_reg_mr_resp, rkey);
	S(ib_uverbs_create_comp_channel);
	S(ib_uverbs_create_comp_channel_resp);
	S(ib_uverbs_create_cq);
	F(ib_uverbs_create_cq, cqe);
	F(ib_uverbs_create_cq, comp_channel);
	S(ib_uverbs_create_cq_resp);
	F(ib_uverbs_create_cq_resp, cq_handle);
	S(mminfo);
	S(rxe_create_cq_resp);
	S(rxe_create_qp_resp);
	F(rxe_create_qp_resp, sq_mi.offset);
	F(rxe_create_qp_resp, sq_mi.size);
	S(ib_uverbs_create_qp);
	F(ib_uverbs_create_qp, pd_handle);
	F(ib_uverbs_create_qp, send_cq_handle);
	F(ib_uverbs_create_qp, recv_cq_handle);
	F(ib_uverbs_create_qp, max_send_wr);
	F(ib_uverbs_create_qp, max_recv_wr);
	F(ib_uverbs_create_qp, max_send_sge);
	F(ib_uverbs_create_qp, max_recv_sge);
	F(ib_uverbs_create_qp, max_inline_data);
	F(ib_uverbs_create_qp, qp_type);
	S(ib_uverbs_create_qp_resp);
	F(ib_uverbs_create_qp_resp, qpn);
	S(ib_uverbs_modify_qp);
	F(ib_uverbs_modify_qp, dest.dgid);
	F(ib_uverbs_modify_qp, dest.sgid_index);
	F(ib_uverbs_modify_qp, dest.hop_limit);
	F(ib_uverbs_modify_qp, dest.is_global);
	F(ib_uverbs_modify_qp, dest.port_num);
	F(ib_uverbs_modify_qp, qp_handle);
	F(ib_uverbs_modify_qp, attr_mask);
	F(ib_uverbs_modify_qp, dest_qp_num);
	F(ib_uverbs_modify_qp, qp_access_flags);
	F(ib_uverbs_modify_qp, qp_state);
	F(ib_uverbs_modify_qp, path_mtu);
	F(ib_uverbs_modify_qp, port_num);
	F(ib_uverbs_modify_qp, retry_cnt);
	S(ib_uverbs_req_notify_cq);
	S(ib_uverbs_post_send);
	F(ib_uverbs_post_send, qp_handle);
	F(ib_uverbs_post_send, wqe_size);
	N(sizeof(struct ib_uverbs_send_wr));
	S(ib_uverbs_post_send_resp);
	S(rxe_send_wqe);
	F(rxe_send_wqe, wr.wr_id);
	F(rxe_send_wqe, wr.opcode);
	F(rxe_send_wqe, wr.send_flags);
	F(rxe_send_wqe, wr.wr.rdma.remote_addr);
	F(rxe_send_wqe, wr.wr.rdma.rkey);
	F(rxe_send_wqe, status);
	F(rxe_send_wqe, state);
	F(rxe_send_wqe, iova);
	F(rxe_send_wqe, dma.length);
	F(rxe_send_wqe, dma.resid);
	F(rxe_send_wqe, dma.num_sge);
	F(rxe_send_wqe, dma.inline_data);
	F(rxe_queue_buf, producer_index);
	F(rxe_queue_buf, data);
	F(ib_uverbs_wc, status);
	S(ib_uverbs_sge);
	F(ib_uverbs_sge, addr);
	F(ib_uverbs_sge, length);
	F(ib_uverbs_sge, lkey);
	N(RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, RDMA_NLDEV_CMD_NEWLINK));
	N(RDMA_NLDEV_ATTR_DEV_NAME);
	N(RDMA_NLDEV_ATTR_NDEV_NAME);
	N(RDMA_NLDEV_ATTR_LINK_TYPE);
	N(NLM_F_REQUEST | NLM_F_ACK);
	N(NLMSG_ERROR);
	N(NLMSG_HDRLEN);
	N(RTM_NEWLINK);
	N(IFF_UP);
	S(ifinfomsg);
	return 0;
}
