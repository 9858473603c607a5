// What the system's own headers say of the structs and numbers in abi.rs and netlink.rs.
#include <stddef.h>
#include <stdio.h>
#include <linux/netlink.h>
#include <rdma/ib_user_verbs.h>
#include <rdma/ib_user_ioctl_cmds.h>
#include <rdma/ib_user_ioctl_verbs.h>
#include <rdma/rdma_netlink.h>
#include <rdma/rdma_user_ioctl_cmds.h>

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
	N(UVERBS_OBJECT_MR);
	N(UVERBS_METHOD_ADVISE_MR);
	N(UVERBS_ATTR_ADVISE_MR_PD_HANDLE);
	N(UVERBS_ATTR_ADVISE_MR_ADVICE);
	N(UVERBS_ATTR_ADVISE_MR_FLAGS);
	N(UVERBS_ATTR_ADVISE_MR_SGE_LIST);
	N(IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE);
	N(IB_UVERBS_ADVISE_MR_FLAG_FLUSH);
	N(UVERBS_ATTR_F_MANDATORY);
	N(IB_USER_VERBS_CMD_GET_CONTEXT);
	N(IB_USER_VERBS_CMD_ALLOC_PD);
	N(IB_USER_VERBS_CMD_REG_MR);
	N(IB_UVERBS_ACCESS_LOCAL_WRITE);
	N(IB_UVERBS_ACCESS_ON_DEMAND);
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
	S(ib_uverbs_get_context);
	S(ib_uverbs_get_context_resp);
	F(ib_uverbs_get_context_resp, async_fd);
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
	return 0;
}
