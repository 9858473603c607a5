/*
 * What C says about the interfaces that libgnt lays out by hand. Prints one line a fact:
 *
 *     NAME VALUE           a number, size, offset or constant
 *     call NAME NR HEX     an ioctl's argument as C fills it in
 *     reply NAME HEX       the same argument after the kernel has answered
 *     slot ABI KIND HEX    a slot of the block protocol's ring
 */
#ifndef __has_include
#error "needs a C compiler with __has_include: gcc 5 or clang"
#endif
#if !__has_include(<stdio.h>)
#error "stdio.h is missing: install the package libc6-dev"
#endif
#if !__has_include(<xen/grant_table.h>) || !__has_include(<xen/io/ring.h>)
#error "Xen's public headers are missing: install the package libxen-dev"
#endif
#if !__has_include(<xen/gntdev.h>) || !__has_include(<xen/gntalloc.h>) || !__has_include(<xen/evtchn.h>)
#error "Linux's Xen headers are missing: install the package linux-libc-dev"
#endif

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <xen/xen.h>
#include <xen/event_channel.h>
#include <xen/grant_table.h>
#include <xen/io/ring.h>
#include <xen/io/blkif.h>
#include <xen/gntdev.h>
#include <xen/gntalloc.h>
#include <xen/evtchn.h>

#define ABI x86_64
#include "slots.h"

void slots_x86_32(void);

/* Linux 6.6's, which older header packages lack. */
#ifndef IOCTL_EVTCHN_BIND_STATIC
#define IOCTL_EVTCHN_BIND_STATIC _IOC(_IOC_NONE, 'E', 7, sizeof(struct ioctl_evtchn_bind))
struct ioctl_evtchn_bind {
	unsigned int port;
};
#endif

#define NUMBER(name) printf(#name " %lld\n", (long long)(name))
#define SIZE(type) printf("sizeof(" #type ") %zu\n", sizeof(type))
#define OFFSET(type, field) printf(#type "." #field " %zu\n", offsetof(type, field))

static void hex(const void *data, size_t len)
{
	const unsigned char *byte = data;

	for (size_t i = 0; i < len; i++)
		printf("%02x", byte[i]);
	printf("\n");
}

static void call(const char *name, unsigned long number, const void *arg, size_t len)
{
	printf("call %s 0x%08lx ", name, number);
	hex(arg, len);
}

static void reply(const char *name, const void *arg, size_t len)
{
	printf("reply %s ", name);
	hex(arg, len);
}

/* Bytes of an argument that ends in `count` elements. */
#define TRAILING(type, field, count) \
	(offsetof(type, field) + (count) * sizeof(((type *)0)->field[0]))

static void layouts(void)
{
	SIZE(struct ioctl_gntdev_grant_ref);
	OFFSET(struct ioctl_gntdev_grant_ref, domid);
	OFFSET(struct ioctl_gntdev_grant_ref, ref);
	SIZE(struct ioctl_gntdev_map_grant_ref);
	OFFSET(struct ioctl_gntdev_map_grant_ref, count);
	OFFSET(struct ioctl_gntdev_map_grant_ref, pad);
	OFFSET(struct ioctl_gntdev_map_grant_ref, index);
	OFFSET(struct ioctl_gntdev_map_grant_ref, refs);
	SIZE(struct ioctl_gntdev_unmap_grant_ref);
	OFFSET(struct ioctl_gntdev_unmap_grant_ref, index);
	OFFSET(struct ioctl_gntdev_unmap_grant_ref, count);
	OFFSET(struct ioctl_gntdev_unmap_grant_ref, pad);
	SIZE(struct ioctl_gntdev_get_offset_for_vaddr);
	OFFSET(struct ioctl_gntdev_get_offset_for_vaddr, vaddr);
	OFFSET(struct ioctl_gntdev_get_offset_for_vaddr, offset);
	OFFSET(struct ioctl_gntdev_get_offset_for_vaddr, count);
	OFFSET(struct ioctl_gntdev_get_offset_for_vaddr, pad);
	SIZE(struct ioctl_gntdev_set_max_grants);
	OFFSET(struct ioctl_gntdev_set_max_grants, count);
	SIZE(struct ioctl_gntdev_unmap_notify);
	OFFSET(struct ioctl_gntdev_unmap_notify, index);
	OFFSET(struct ioctl_gntdev_unmap_notify, action);
	OFFSET(struct ioctl_gntdev_unmap_notify, event_channel_port);
	SIZE(struct gntdev_grant_copy_segment);
	OFFSET(struct gntdev_grant_copy_segment, source);
	OFFSET(struct gntdev_grant_copy_segment, dest);
	OFFSET(struct gntdev_grant_copy_segment, len);
	OFFSET(struct gntdev_grant_copy_segment, flags);
	OFFSET(struct gntdev_grant_copy_segment, status);
	SIZE(struct ioctl_gntdev_grant_copy);
	OFFSET(struct ioctl_gntdev_grant_copy, count);
	OFFSET(struct ioctl_gntdev_grant_copy, segments);
	SIZE(struct ioctl_gntdev_dmabuf_exp_from_refs);
	OFFSET(struct ioctl_gntdev_dmabuf_exp_from_refs, flags);
	OFFSET(struct ioctl_gntdev_dmabuf_exp_from_refs, count);
	OFFSET(struct ioctl_gntdev_dmabuf_exp_from_refs, fd);
	OFFSET(struct ioctl_gntdev_dmabuf_exp_from_refs, domid);
	OFFSET(struct ioctl_gntdev_dmabuf_exp_from_refs, refs);
	SIZE(struct ioctl_gntdev_dmabuf_exp_wait_released);
	OFFSET(struct ioctl_gntdev_dmabuf_exp_wait_released, fd);
	OFFSET(struct ioctl_gntdev_dmabuf_exp_wait_released, wait_to_ms);
	SIZE(struct ioctl_gntdev_dmabuf_imp_to_refs);
	OFFSET(struct ioctl_gntdev_dmabuf_imp_to_refs, fd);
	OFFSET(struct ioctl_gntdev_dmabuf_imp_to_refs, count);
	OFFSET(struct ioctl_gntdev_dmabuf_imp_to_refs, domid);
	OFFSET(struct ioctl_gntdev_dmabuf_imp_to_refs, reserved);
	OFFSET(struct ioctl_gntdev_dmabuf_imp_to_refs, refs);
	SIZE(struct ioctl_gntdev_dmabuf_imp_release);
	OFFSET(struct ioctl_gntdev_dmabuf_imp_release, fd);
	OFFSET(struct ioctl_gntdev_dmabuf_imp_release, reserved);

	SIZE(struct ioctl_gntalloc_alloc_gref);
	OFFSET(struct ioctl_gntalloc_alloc_gref, domid);
	OFFSET(struct ioctl_gntalloc_alloc_gref, flags);
	OFFSET(struct ioctl_gntalloc_alloc_gref, count);
	OFFSET(struct ioctl_gntalloc_alloc_gref, index);
	OFFSET(struct ioctl_gntalloc_alloc_gref, gref_ids);
	SIZE(struct ioctl_gntalloc_dealloc_gref);
	OFFSET(struct ioctl_gntalloc_dealloc_gref, index);
	OFFSET(struct ioctl_gntalloc_dealloc_gref, count);
	SIZE(struct ioctl_gntalloc_unmap_notify);
	OFFSET(struct ioctl_gntalloc_unmap_notify, index);
	OFFSET(struct ioctl_gntalloc_unmap_notify, action);
	OFFSET(struct ioctl_gntalloc_unmap_notify, event_channel_port);

	SIZE(struct ioctl_evtchn_bind_virq);
	OFFSET(struct ioctl_evtchn_bind_virq, virq);
	SIZE(struct ioctl_evtchn_bind_interdomain);
	OFFSET(struct ioctl_evtchn_bind_interdomain, remote_domain);
	OFFSET(struct ioctl_evtchn_bind_interdomain, remote_port);
	SIZE(struct ioctl_evtchn_bind_unbound_port);
	OFFSET(struct ioctl_evtchn_bind_unbound_port, remote_domain);
	SIZE(struct ioctl_evtchn_unbind);
	OFFSET(struct ioctl_evtchn_unbind, port);
	SIZE(struct ioctl_evtchn_notify);
	OFFSET(struct ioctl_evtchn_notify, port);
	SIZE(struct ioctl_evtchn_bind);
	OFFSET(struct ioctl_evtchn_bind, port);
	SIZE(struct ioctl_evtchn_restrict_domid);
	OFFSET(struct ioctl_evtchn_restrict_domid, domid);
}

static void numbers(void)
{
	NUMBER(IOCTL_GNTDEV_MAP_GRANT_REF);
	NUMBER(IOCTL_GNTDEV_UNMAP_GRANT_REF);
	NUMBER(IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR);
	NUMBER(IOCTL_GNTDEV_SET_MAX_GRANTS);
	NUMBER(IOCTL_GNTDEV_SET_UNMAP_NOTIFY);
	NUMBER(IOCTL_GNTDEV_GRANT_COPY);
	NUMBER(IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS);
	NUMBER(IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED);
	NUMBER(IOCTL_GNTDEV_DMABUF_IMP_TO_REFS);
	NUMBER(IOCTL_GNTDEV_DMABUF_IMP_RELEASE);
	NUMBER(IOCTL_GNTALLOC_ALLOC_GREF);
	NUMBER(IOCTL_GNTALLOC_DEALLOC_GREF);
	NUMBER(IOCTL_GNTALLOC_SET_UNMAP_NOTIFY);
	NUMBER(IOCTL_EVTCHN_BIND_VIRQ);
	NUMBER(IOCTL_EVTCHN_BIND_INTERDOMAIN);
	NUMBER(IOCTL_EVTCHN_BIND_UNBOUND_PORT);
	NUMBER(IOCTL_EVTCHN_UNBIND);
	NUMBER(IOCTL_EVTCHN_NOTIFY);
	NUMBER(IOCTL_EVTCHN_RESET);
	NUMBER(IOCTL_EVTCHN_RESTRICT_DOMID);
	NUMBER(IOCTL_EVTCHN_BIND_STATIC);

	NUMBER(UNMAP_NOTIFY_CLEAR_BYTE);
	NUMBER(UNMAP_NOTIFY_SEND_EVENT);
	NUMBER(GNTDEV_DMA_FLAG_WC);
	NUMBER(GNTDEV_DMA_FLAG_COHERENT);
	NUMBER(GNTALLOC_FLAG_WRITABLE);
	NUMBER(GNTCOPY_source_gref);
	NUMBER(GNTCOPY_dest_gref);
	NUMBER(GNTST_okay);
	NUMBER(GNTST_general_error);
	NUMBER(GNTST_bad_domain);
	NUMBER(GNTST_bad_gntref);
	NUMBER(GNTST_bad_handle);
	NUMBER(GNTST_bad_virt_addr);
	NUMBER(GNTST_bad_dev_addr);
	NUMBER(GNTST_no_device_space);
	NUMBER(GNTST_permission_denied);
	NUMBER(GNTST_bad_page);
	NUMBER(GNTST_bad_copy_arg);
	NUMBER(GNTST_address_too_big);
	NUMBER(GNTST_eagain);
	NUMBER(GNTST_no_space);
	NUMBER(DOMID_FIRST_RESERVED);
	NUMBER(DOMID_SELF);
	NUMBER(VIRQ_TIMER);
	NUMBER(VIRQ_DEBUG);
	NUMBER(VIRQ_DOM_EXC);
	SIZE(domid_t);
	SIZE(grant_ref_t);
	SIZE(evtchn_port_t);
}

static void calls(void)
{
	size_t len;

	{
		struct ioctl_gntdev_map_grant_ref *arg;
		static const struct ioctl_gntdev_grant_ref refs[] = {{5, 8}, {5, 0x1ff}, {7, 9}};

		len = TRAILING(struct ioctl_gntdev_map_grant_ref, refs, 3);
		arg = calloc(1, len);
		arg->count = 3;
		memcpy(arg->refs, refs, sizeof(refs));
		call("map_grant_ref", IOCTL_GNTDEV_MAP_GRANT_REF, arg, len);
		arg->index = 0x123456000;
		reply("map_grant_ref", arg, len);
		free(arg);
	}
	{
		struct ioctl_gntdev_unmap_grant_ref arg = {.index = 0x123456000, .count = 3};

		call("unmap_grant_ref", IOCTL_GNTDEV_UNMAP_GRANT_REF, &arg, sizeof(arg));
	}
	{
		struct ioctl_gntdev_get_offset_for_vaddr arg = {.vaddr = 0x7f1122334000};

		call("get_offset_for_vaddr", IOCTL_GNTDEV_GET_OFFSET_FOR_VADDR, &arg, sizeof(arg));
		arg.offset = 0x123456000;
		arg.count = 3;
		reply("get_offset_for_vaddr", &arg, sizeof(arg));
	}
	{
		struct ioctl_gntdev_set_max_grants arg = {.count = 4096};

		call("set_max_grants", IOCTL_GNTDEV_SET_MAX_GRANTS, &arg, sizeof(arg));
	}
	{
		struct ioctl_gntdev_unmap_notify arg = {
			.index = 0x12345603e,
			.action = UNMAP_NOTIFY_CLEAR_BYTE | UNMAP_NOTIFY_SEND_EVENT,
			.event_channel_port = 17,
		};

		call("set_unmap_notify", IOCTL_GNTDEV_SET_UNMAP_NOTIFY, &arg, sizeof(arg));
	}
	{
		/* The addresses are stand-ins: a test puts its own in their place. */
		struct gntdev_grant_copy_segment segments[2];

		memset(segments, 0, sizeof(segments));
		segments[0].source.foreign.ref = 0x1ff;
		segments[0].source.foreign.offset = 512;
		segments[0].source.foreign.domid = 5;
		segments[0].dest.virt = (void *)0x1122334455667788;
		segments[0].len = 1024;
		segments[0].flags = GNTCOPY_source_gref;
		segments[0].status = GNTST_general_error;
		segments[1].source.foreign.ref = 8;
		segments[1].source.foreign.offset = 0;
		segments[1].source.foreign.domid = 5;
		segments[1].dest.foreign.ref = 9;
		segments[1].dest.foreign.offset = 3584;
		segments[1].dest.foreign.domid = 7;
		segments[1].len = 512;
		segments[1].flags = GNTCOPY_source_gref | GNTCOPY_dest_gref;
		segments[1].status = GNTST_general_error;
		call("grant_copy.segments", IOCTL_GNTDEV_GRANT_COPY, segments, sizeof(segments));
		segments[0].status = GNTST_okay;
		segments[1].status = GNTST_bad_gntref;
		reply("grant_copy.segments", segments, sizeof(segments));
	}
	{
		struct ioctl_gntdev_dmabuf_exp_from_refs *arg;

		len = TRAILING(struct ioctl_gntdev_dmabuf_exp_from_refs, refs, 3);
		arg = calloc(1, len);
		arg->flags = GNTDEV_DMA_FLAG_COHERENT;
		arg->count = 3;
		arg->domid = 5;
		arg->refs[0] = 8;
		arg->refs[1] = 0x1ff;
		arg->refs[2] = 9;
		call("dmabuf_exp_from_refs", IOCTL_GNTDEV_DMABUF_EXP_FROM_REFS, arg, len);
		free(arg);
	}
	{
		struct ioctl_gntdev_dmabuf_exp_wait_released arg = {.fd = 0, .wait_to_ms = 1501};

		call("dmabuf_exp_wait_released", IOCTL_GNTDEV_DMABUF_EXP_WAIT_RELEASED, &arg,
		     sizeof(arg));
	}
	{
		struct ioctl_gntdev_dmabuf_imp_to_refs *arg;

		len = TRAILING(struct ioctl_gntdev_dmabuf_imp_to_refs, refs, 3);
		arg = calloc(1, len);
		arg->count = 3;
		arg->domid = 5;
		call("dmabuf_imp_to_refs", IOCTL_GNTDEV_DMABUF_IMP_TO_REFS, arg, len);
		arg->refs[0] = 8;
		arg->refs[1] = 0x1ff;
		arg->refs[2] = 9;
		reply("dmabuf_imp_to_refs", arg, len);
		free(arg);
	}
	{
		struct ioctl_gntdev_dmabuf_imp_release arg = {.fd = 0};

		call("dmabuf_imp_release", IOCTL_GNTDEV_DMABUF_IMP_RELEASE, &arg, sizeof(arg));
	}
	{
		struct ioctl_gntalloc_alloc_gref *arg;

		len = TRAILING(struct ioctl_gntalloc_alloc_gref, gref_ids, 3);
		arg = calloc(1, len);
		arg->domid = 5;
		arg->flags = GNTALLOC_FLAG_WRITABLE;
		arg->count = 3;
		call("alloc_gref", IOCTL_GNTALLOC_ALLOC_GREF, arg, len);
		arg->index = 0x123456000;
		arg->gref_ids[0] = 8;
		arg->gref_ids[1] = 0x1ff;
		arg->gref_ids[2] = 9;
		reply("alloc_gref", arg, len);
		free(arg);
	}
	{
		struct ioctl_gntalloc_dealloc_gref arg;

		memset(&arg, 0, sizeof(arg));
		arg.index = 0x123456000;
		arg.count = 3;
		call("dealloc_gref", IOCTL_GNTALLOC_DEALLOC_GREF, &arg, sizeof(arg));
	}
	{
		struct ioctl_gntalloc_unmap_notify arg = {
			.index = 0x12345603f,
			.action = UNMAP_NOTIFY_SEND_EVENT,
			.event_channel_port = 17,
		};

		call("gntalloc_unmap_notify", IOCTL_GNTALLOC_SET_UNMAP_NOTIFY, &arg, sizeof(arg));
	}
	{
		struct ioctl_evtchn_bind_virq arg = {.virq = VIRQ_DEBUG};

		call("bind_virq", IOCTL_EVTCHN_BIND_VIRQ, &arg, sizeof(arg));
	}
	{
		struct ioctl_evtchn_bind_interdomain arg = {.remote_domain = 5, .remote_port = 17};

		call("bind_interdomain", IOCTL_EVTCHN_BIND_INTERDOMAIN, &arg, sizeof(arg));
	}
	{
		struct ioctl_evtchn_bind_unbound_port arg = {.remote_domain = 5};

		call("bind_unbound_port", IOCTL_EVTCHN_BIND_UNBOUND_PORT, &arg, sizeof(arg));
	}
	{
		struct ioctl_evtchn_unbind arg = {.port = 17};

		call("unbind", IOCTL_EVTCHN_UNBIND, &arg, sizeof(arg));
	}
	{
		struct ioctl_evtchn_notify arg = {.port = 17};

		call("notify", IOCTL_EVTCHN_NOTIFY, &arg, sizeof(arg));
	}
	call("reset", IOCTL_EVTCHN_RESET, NULL, 0);
	{
		struct ioctl_evtchn_restrict_domid arg = {.domid = 5};

		call("restrict_domid", IOCTL_EVTCHN_RESTRICT_DOMID, &arg, sizeof(arg));
	}
	{
		struct ioctl_evtchn_bind arg = {.port = 17};

		call("bind_static", IOCTL_EVTCHN_BIND_STATIC, &arg, sizeof(arg));
	}
}

int main(void)
{
	layouts();
	numbers();
	calls();
	slots_x86_64();
	slots_x86_32();
	return 0;
}
