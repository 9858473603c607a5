/*
 * The ring of a 32-bit front end. On i386 a 64-bit field of a struct is aligned to four bytes;
 * saying so of the type gives that layout to a 64-bit compiler.
 */
#include <stdint.h>

typedef uint64_t uint64_aligned_4 __attribute__((aligned(4)));

#include <xen/xen.h>
#include <xen/grant_table.h>
#include <xen/io/ring.h>
#define uint64_t uint64_aligned_4
#include <xen/io/blkif.h>
#undef uint64_t

#define ABI x86_32
#include "slots.h"
