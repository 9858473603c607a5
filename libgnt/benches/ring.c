/*
 * The yardstick of benches/ring.rs: the macros of libxen-dev's io/ring.h, used as blkfront and
 * blkback use them. Two pinned threads, one page of ring, spinning.
 *
 *     ring SEGMENTS MILLISECONDS FRONT_CPU BACK_CPU
 *
 * Prints requests answered a second: in the whole run, and in its best window.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

/* What Xen's own tools (xenbarrier.h) and Linux use on x86. */
#if defined(__x86_64__)
#define xen_mb() __asm__ volatile("lock addl $0, -32(%%rsp)" ::: "memory")
#define xen_rmb() __asm__ volatile("" ::: "memory")
#define xen_wmb() __asm__ volatile("" ::: "memory")
#define relax() __builtin_ia32_pause()
#else
#define xen_mb() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define xen_rmb() __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define xen_wmb() __atomic_thread_fence(__ATOMIC_RELEASE)
#define relax() ((void)0)
#endif

#define __XEN_INTERFACE_VERSION__ 0x00040e00
#include <xen/xen.h>
#include <xen/io/blkif.h>

#define WINDOW_NANOSECONDS 1000000

#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))

static blkif_sring_t *sring;
static volatile int stop;
static int segments;
static unsigned long notifications;

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void violation(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void *back(void *cpu)
{
    blkif_back_ring_t ring;
    int notify;

    pin((int)(intptr_t)cpu);
    BACK_RING_INIT(&ring, sring, 4096);
    while (!stop) {
        RING_IDX rc = ring.req_cons, rp = READ_ONCE(ring.sring->req_prod);
        xen_rmb();
        if (RING_REQUEST_PROD_OVERFLOW(&ring, rp))
            violation("req_prod");
        if (rc == rp) {
            relax();
            continue;
        }
        while (rc != rp) {
            struct blkif_request req;
            struct blkif_response rsp;
            int16_t status = BLKIF_RSP_OKAY;

            if (RING_REQUEST_CONS_OVERFLOW(&ring, rc))
                break;
            RING_COPY_REQUEST(&ring, rc, &req);
            ring.req_cons = ++rc;
            switch (req.operation) {
            case BLKIF_OP_READ:
            case BLKIF_OP_WRITE:
                if (req.nr_segments == 0 ||
                    req.nr_segments > BLKIF_MAX_SEGMENTS_PER_REQUEST) {
                    status = BLKIF_RSP_ERROR;
                    break;
                }
                for (int i = 0; i < req.nr_segments; i++)
                    if (req.seg[i].last_sect >= 8 ||
                        req.seg[i].last_sect < req.seg[i].first_sect)
                        status = BLKIF_RSP_ERROR;
                break;
            default:
                status = BLKIF_RSP_EOPNOTSUPP;
            }
            memset(&rsp, 0, sizeof rsp);
            rsp.id = req.id;
            rsp.operation = req.operation;
            rsp.status = status;
            memcpy(RING_GET_RESPONSE(&ring, ring.rsp_prod_pvt), &rsp, sizeof rsp);
            ring.rsp_prod_pvt++;
        }
        RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(&ring, notify);
        notifications += notify;
    }
    return NULL;
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

int main(int argc, char **argv)
{
    blkif_front_ring_t ring;
    pthread_t thread;
    uint64_t begin, end, deadline, window, sent = 0, answered = 0, before = 0;
    double best = 0;
    unsigned batch = 0;
    int notify, stopping = 0;

    if (argc != 5)
        violation("ring SEGMENTS MILLISECONDS FRONT_CPU BACK_CPU");
    segments = atoi(argv[1]);
    sring = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sring == MAP_FAILED)
        violation("mmap");
    XEN_FRONT_RING_INIT(&ring, sring, 4096);
    pthread_create(&thread, NULL, back, (void *)(intptr_t)atoi(argv[4]));
    pin(atoi(argv[3]));
    begin = now();
    window = begin;
    deadline = begin + (uint64_t)atoi(argv[2]) * 1000000;
    while (!stopping || answered != sent) {
        RING_IDX cons, rp;

        while (!stopping && !RING_FULL(&ring)) {
            struct blkif_request *req = RING_GET_REQUEST(&ring, ring.req_prod_pvt);
            req->operation = BLKIF_OP_READ;
            req->nr_segments = segments;
            req->handle = 51712;
            req->id = sent;
            req->sector_number = sent * 8;
            for (int i = 0; i < segments; i++) {
                req->seg[i].gref = i + 8;
                req->seg[i].first_sect = 0;
                req->seg[i].last_sect = 7;
            }
            ring.req_prod_pvt++;
            sent++;
        }
        RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(&ring, notify);
        notifications += notify;
        rp = READ_ONCE(ring.sring->rsp_prod);
        xen_rmb();
        if (RING_RESPONSE_PROD_OVERFLOW(&ring, rp))
            violation("rsp_prod");
        if (ring.rsp_cons == rp)
            relax();
        for (cons = ring.rsp_cons; cons != rp; cons++) {
            struct blkif_response rsp;
            RING_COPY_RESPONSE(&ring, cons, &rsp);
            if (rsp.id != answered || rsp.status != BLKIF_RSP_OKAY)
                violation("response");
            answered++;
        }
        ring.rsp_cons = cons;
        if (++batch % 64 == 0) {
            end = now();
            if (end - window >= WINDOW_NANOSECONDS) {
                double rate = (answered - before) * 1e9 / (end - window);
                if (rate > best)
                    best = rate;
                window = end;
                before = answered;
            }
            if (end > deadline)
                stopping = 1;
        }
    }
    end = now();
    stop = 1;
    pthread_join(thread, NULL);
    printf("%.0f %.0f %lu\n", answered * 1e9 / (end - begin), best, notifications);
    return 0;
}
