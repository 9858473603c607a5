/*
 * The yardstick of benches/ring.rs: the macros of libxen-dev's io/ring.h, used as blkfront and
 * blkback use them, on one page of ring. What each side does for a request is written at the
 * head of ring.rs, for both.
 *
 *     ring SEGMENTS MILLISECONDS FRONT_CPU BACK_CPU    two pinned threads, spinning
 *     ring SEGMENTS REQUESTS                           one thread, front and back in turn
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
static volatile unsigned long notifications;

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

/* Fills the free slots of the ring, and publishes. */
static uint64_t fill(blkif_front_ring_t *ring, int segments, uint64_t sent)
{
    int notify;

    while (!RING_FULL(ring)) {
        struct blkif_request *req = RING_GET_REQUEST(ring, ring->req_prod_pvt);
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
        ring->req_prod_pvt++;
        sent++;
    }
    RING_PUSH_REQUESTS_AND_CHECK_NOTIFY(ring, notify);
    if (notify)
        notifications++;
    return sent;
}

/* Takes, checks and answers what is there, and publishes. */
static int serve(blkif_back_ring_t *ring)
{
    RING_IDX rc = ring->req_cons, rp = READ_ONCE(ring->sring->req_prod);
    int notify;

    xen_rmb();
    if (RING_REQUEST_PROD_OVERFLOW(ring, rp))
        violation("req_prod");
    if (rc == rp)
        return 0;
    while (rc != rp) {
        struct blkif_request req;
        struct blkif_response rsp;
        int16_t status = BLKIF_RSP_OKAY;

        if (RING_REQUEST_CONS_OVERFLOW(ring, rc))
            break;
        RING_COPY_REQUEST(ring, rc, &req);
        ring->req_cons = ++rc;
        switch (req.operation) {
        case BLKIF_OP_READ:
        case BLKIF_OP_WRITE:
            if (req.nr_segments == 0 || req.nr_segments > BLKIF_MAX_SEGMENTS_PER_REQUEST) {
                status = BLKIF_RSP_ERROR;
                break;
            }
            for (int i = 0; i < req.nr_segments; i++)
                if (req.seg[i].last_sect >= 8 || req.seg[i].last_sect < req.seg[i].first_sect) {
                    status = BLKIF_RSP_ERROR;
                    break;
                }
            break;
        default:
            status = BLKIF_RSP_EOPNOTSUPP;
        }
        /* The request goes to whoever does the I/O. */
        __asm__ volatile("" : : "r"(&req) : "memory");
        memset(&rsp, 0, sizeof rsp);
        rsp.id = req.id;
        rsp.operation = req.operation;
        rsp.status = status;
        memcpy(RING_GET_RESPONSE(ring, ring->rsp_prod_pvt), &rsp, sizeof rsp);
        ring->rsp_prod_pvt++;
    }
    RING_PUSH_RESPONSES_AND_CHECK_NOTIFY(ring, notify);
    if (notify)
        notifications++;
    return 1;
}

/* Takes the responses that are there. */
static uint64_t drain(blkif_front_ring_t *ring, uint64_t answered)
{
    RING_IDX cons, rp = READ_ONCE(ring->sring->rsp_prod);

    xen_rmb();
    if (RING_RESPONSE_PROD_OVERFLOW(ring, rp))
        violation("rsp_prod");
    for (cons = ring->rsp_cons; cons != rp; cons++) {
        struct blkif_response rsp;
        RING_COPY_RESPONSE(ring, cons, &rsp);
        if (rsp.id != answered || rsp.status != BLKIF_RSP_OKAY)
            violation("response");
        answered++;
    }
    ring->rsp_cons = cons;
    return answered;
}

static void *back(void *cpu)
{
    blkif_back_ring_t ring;

    pin((int)(intptr_t)cpu);
    BACK_RING_INIT(&ring, sring, 4096);
    while (!stop)
        if (!serve(&ring))
            relax();
    return NULL;
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

struct watch {
    uint64_t begin, window, before;
    double best;
};

/* Looks at the clock; returns it. */
static uint64_t look(struct watch *watch, uint64_t answered)
{
    uint64_t t = now();

    if (t - watch->window >= WINDOW_NANOSECONDS) {
        double rate = (answered - watch->before) * 1e9 / (t - watch->window);
        if (rate > watch->best)
            watch->best = rate;
        watch->window = t;
        watch->before = answered;
    }
    return t;
}

static uint64_t two_threads(blkif_front_ring_t *ring, int segments, uint64_t run,
                            struct watch *watch)
{
    uint64_t sent = 0, answered = 0, news;
    unsigned batch = 0;
    int stopping = 0;

    while (!stopping || answered != sent) {
        if (!stopping)
            sent = fill(ring, segments, sent);
        news = drain(ring, answered);
        if (news == answered)
            relax();
        answered = news;
        if (++batch % 64 == 0 && look(watch, answered) - watch->begin > run)
            stopping = 1;
    }
    return answered;
}

static uint64_t one_thread(blkif_front_ring_t *ring, int segments, uint64_t requests,
                           struct watch *watch)
{
    blkif_back_ring_t back;
    uint64_t sent = 0, answered = 0;
    unsigned batch = 0;

    BACK_RING_INIT(&back, sring, 4096);
    while (answered < requests) {
        sent = fill(ring, segments, sent);
        serve(&back);
        answered = drain(ring, answered);
        if (++batch % 64 == 0)
            look(watch, answered);
    }
    return answered;
}

int main(int argc, char **argv)
{
    blkif_front_ring_t ring;
    struct watch watch = {0};
    pthread_t thread;
    uint64_t answered;
    int segments;

    if (argc != 3 && argc != 5)
        violation("ring SEGMENTS MILLISECONDS FRONT_CPU BACK_CPU, or ring SEGMENTS REQUESTS");
    segments = atoi(argv[1]);
    sring = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sring == MAP_FAILED)
        violation("mmap");
    XEN_FRONT_RING_INIT(&ring, sring, 4096);
    if (argc == 5) {
        pthread_create(&thread, NULL, back, (void *)(intptr_t)atoi(argv[4]));
        pin(atoi(argv[3]));
        watch.begin = watch.window = now();
        answered = two_threads(&ring, segments, (uint64_t)atoi(argv[2]) * 1000000, &watch);
    } else {
        watch.begin = watch.window = now();
        answered = one_thread(&ring, segments, (uint64_t)atoll(argv[2]), &watch);
    }
    uint64_t end = now();
    stop = 1;
    if (argc == 5)
        pthread_join(thread, NULL);
    printf("%.0f %.0f\n", answered * 1e9 / (end - watch.begin), watch.best);
    return 0;
}
