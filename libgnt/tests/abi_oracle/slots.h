/* The block protocol's ring as C lays it out for one ABI; compiled once for each. */
#ifndef ABI
#error "define ABI to the name that node `protocol` has, without its -abi"
#endif

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define STRING_(x) #x
#define STRING(x) STRING_(x)
#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define FACT(what, value) printf(STRING(ABI) "." what " %lld\n", (long long)(value))

static void slot(const char *what, const void *data, size_t len)
{
	const unsigned char *byte = data;

	printf("slot " STRING(ABI) " %s ", what);
	for (size_t i = 0; i < len; i++)
		printf("%02x", byte[i]);
	printf("\n");
}

void PASTE(slots_, ABI)(void)
{
	union blkif_sring_entry entry;

	FACT("ring slots in a page", __CONST_RING_SIZE(blkif, 4096));
	FACT("ring slots in 16 pages", __CONST_RING_SIZE(blkif, 16 * 4096));
	FACT("ring slot bytes", sizeof(union blkif_sring_entry));
	FACT("response bytes", sizeof(struct blkif_response));
	FACT("ring header bytes", offsetof(struct blkif_sring, ring));
	FACT("req_prod", offsetof(struct blkif_sring, req_prod));
	FACT("req_event", offsetof(struct blkif_sring, req_event));
	FACT("rsp_prod", offsetof(struct blkif_sring, rsp_prod));
	FACT("rsp_event", offsetof(struct blkif_sring, rsp_event));
	FACT("reserved", offsetof(struct blkif_sring, pvt));
	FACT("segments of a request", BLKIF_MAX_SEGMENTS_PER_REQUEST);
	FACT("read", BLKIF_OP_READ);
	FACT("write", BLKIF_OP_WRITE);
	FACT("flush", BLKIF_OP_FLUSH_DISKCACHE);

	/* A write with all segments, and the response to it. */
	memset(&entry, 0, sizeof(entry));
	entry.req.operation = BLKIF_OP_WRITE;
	entry.req.nr_segments = BLKIF_MAX_SEGMENTS_PER_REQUEST;
	entry.req.handle = 51712;
	entry.req.id = 0x1122334455667788;
	entry.req.sector_number = 0x99aabbccddeeff;
	for (int i = 0; i < BLKIF_MAX_SEGMENTS_PER_REQUEST; i++) {
		entry.req.seg[i].gref = 0x01020300 + i;
		entry.req.seg[i].first_sect = i % 4;
		entry.req.seg[i].last_sect = 7 - i % 3;
	}
	slot("request", &entry, sizeof(entry));

	memset(&entry, 0, sizeof(entry));
	entry.rsp.id = 0x1122334455667788;
	entry.rsp.operation = BLKIF_OP_WRITE;
	entry.rsp.status = BLKIF_RSP_EOPNOTSUPP;
	slot("response", &entry.rsp, sizeof(entry.rsp));
}
