/*
 * The world of a xenstore daemon that runs without Xen: answers its calls into libxenctrl,
 * libxenevtchn and libxengnttab out of one directory, which PV_RIVALS_DIR names:
 *
 *   domains   a page with a byte for each domain: 0 none, 1 running, 2 shut down, 3 dying
 *   ring-N    domain N's ring page (xen/include/public/io/xs_wire.h)
 *   bell-N    a FIFO: a byte for each event that the daemon sends to domain N
 *   events    a FIFO: the ports, 4 bytes each, on which the daemon has an event
 *   ready     a FIFO: a byte when the daemon listens
 *   port-0    a file with dom0's port
 *   run/      what the daemon takes for /run/xenstored
 *   log/      what it takes for /var/log/xen
 *
 * and PV_RIVALS_TREE, where its packages are unpacked.
 *
 * Linked with nothing: the C library is the daemon's, of whatever version.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define DOMAINS 4096
/* A domain's port, at the daemon's end, is this and its number. */
#define PORT_OF_DOMAIN 100
/* VIRQ_DOM_EXC arrives here: a domain has died. */
#define PORT_OF_VIRQ 1
/* How fast the daemon's clock goes: its limit on the rate of writes is then none that a test feels. */
#define HASTE 100000

enum { NONE, RUNNING, SHUT_DOWN, DYING };

static const char *in_world(char *buffer, size_t size, const char *name)
{
    const char *dir = getenv("PV_RIVALS_DIR");

    snprintf(buffer, size, "%s/%s", dir ? dir : "/nonexistent", name);
    return buffer;
}

static int open_in_world(const char *name, int flags)
{
    char path[512];

    return syscall(SYS_openat, AT_FDCWD, in_world(path, sizeof(path), name), flags | O_CLOEXEC, 0600);
}

static void *map_in_world(const char *name)
{
    int fd = open_in_world(name, O_RDWR);
    void *page;

    if (fd < 0)
        return NULL;
    page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

/* Paths that Xen has and this world has elsewhere. */
static const char *moved(char *buffer, size_t size, const char *path)
{
    static const struct {
        const char *from, *to;
    } places[] = {
        { "/proc/xen/xsd_kva", "ring-0" },
        { "/proc/xen/xsd_port", "port-0" },
        { "/run/xenstored", "run" },
        { "/var/run/xenstored", "run" },
        { "/var/lib/xenstored", "run" },
        { "/var/log/xen", "log" },
    };
    const char *tree = getenv("PV_RIVALS_TREE");
    char name[300];
    size_t i;

    for (i = 0; path && i < sizeof(places) / sizeof(*places); i++) {
        size_t length = strlen(places[i].from);

        if (!strncmp(path, places[i].from, length) && (!path[length] || path[length] == '/')) {
            snprintf(name, sizeof(name), "%s%s", places[i].to, path + length);
            return in_world(buffer, size, name);
        }
    }
    /* What a daemon loads at run time is where its packages are unpacked. */
    if (path && tree && strstr(path, "/xsd_glue/") && strncmp(path, tree, strlen(tree))) {
        snprintf(buffer, size, "%s%s", tree, path);
        return buffer;
    }
    return path;
}

/* --- the C library --- */

extern __typeof__(dlsym) dlsym __attribute__((weak));

int open(const char *path, int flags, ...)
{
    char buffer[512];
    mode_t mode;
    va_list args;

    va_start(args, flags);
    mode = va_arg(args, mode_t);
    va_end(args);
    return syscall(SYS_openat, AT_FDCWD, moved(buffer, sizeof(buffer), path), flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

/* glibc's own opendir does not come by `open`. */
DIR *opendir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 ? NULL : fdopendir(fd);
}

/* Only oxenstored of 4.20 loads anything, and its C library has dlsym. */
void *dlopen(const char *path, int flags)
{
    char buffer[512];
    void *(*next)(const char *, int) = dlsym(RTLD_NEXT, "dlopen");

    return next(moved(buffer, sizeof(buffer), path), flags);
}

/* The kernel's structure is the C library's on x86-64. */
int stat(const char *path, struct stat *into)
{
    char buffer[512];

    return syscall(SYS_stat, moved(buffer, sizeof(buffer), path), into);
}

int stat64(const char *path, struct stat64 *into)
{
    return stat(path, (struct stat *)into);
}

int mkdir(const char *path, mode_t mode)
{
    char buffer[512];

    return syscall(SYS_mkdir, moved(buffer, sizeof(buffer), path), mode);
}

int unlink(const char *path)
{
    char buffer[512];

    return syscall(SYS_unlink, moved(buffer, sizeof(buffer), path));
}

int access(const char *path, int mode)
{
    char buffer[512];

    return syscall(SYS_access, moved(buffer, sizeof(buffer), path), mode);
}

int chmod(const char *path, mode_t mode)
{
    char buffer[512];

    return syscall(SYS_chmod, moved(buffer, sizeof(buffer), path), mode);
}

/* 4.14's oxenstored has a second socket, and listens there first. */
static int read_only = -1;

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    const struct sockaddr_un *from = (const void *)address;
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    char name[sizeof(from->sun_path) + 1] = "";
    char buffer[512];
    const char *path;

    if (from->sun_family != AF_UNIX || length <= offsetof(struct sockaddr_un, sun_path))
        return syscall(SYS_bind, fd, address, length);
    memcpy(name, from->sun_path, length - offsetof(struct sockaddr_un, sun_path));
    path = moved(buffer, sizeof(buffer), name);
    if (strlen(path) >= sizeof(to.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (strlen(path) > 3 && !strcmp(path + strlen(path) - 3, "_ro"))
        read_only = fd;
    strcpy(to.sun_path, path);
    return syscall(SYS_bind, fd, &to, sizeof(to));
}

int listen(int fd, int backlog)
{
    int result = syscall(SYS_listen, fd, backlog);
    int ready = fd == read_only ? -1 : open_in_world("ready", O_RDWR | O_NONBLOCK);

    if (ready >= 0) {
        if (write(ready, "!", 1) < 0)
            result = -1;
        close(ready);
    }
    return result;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    /* The C library asks without a system call; in old ones it has no dlsym. */
    static int (*next)(clockid_t, struct timespec *);
    int result;

    if (!next && dlsym)
        next = dlsym(RTLD_NEXT, "clock_gettime");
    result = next ? next(clock, now) : syscall(SYS_clock_gettime, clock, now);
    if (!result && clock == CLOCK_MONOTONIC) {
        uint64_t microseconds = (uint64_t)now->tv_sec * 1000000 + now->tv_nsec / 1000;

        /* From the first look on: not all the time since the machine began. */
        static uint64_t first;

        if (!first)
            first = microseconds;
        microseconds = first + (microseconds - first) * HASTE;
        now->tv_sec = microseconds / 1000000;
        now->tv_nsec = microseconds % 1000000 * 1000;
    }
    return result;
}

/* Of no limit on open files is anything asked here. */
int setrlimit(int resource, const void *limit)
{
    (void)resource;
    (void)limit;
    return 0;
}

int setrlimit64(int resource, const void *limit) __attribute__((alias("setrlimit")));

/* --- libxenctrl --- */

static uint8_t *domains(void)
{
    static uint8_t *page;

    if (!page)
        page = map_in_world("domains");
    return page;
}

static int state_of(uint32_t domid)
{
    volatile uint8_t *states = domains();

    return states && domid < DOMAINS ? states[domid] : NONE;
}

/* struct xc_interface_core is the library's own; nobody looks into this one. */
static char handle[64];

void *xc_interface_open(void *logger, void *dombuild_logger, unsigned flags)
{
    (void)logger;
    (void)dombuild_logger;
    (void)flags;
    return handle;
}

int xc_interface_close(void *xch)
{
    (void)xch;
    return 0;
}

/* xc_error: a code, which is none, and a text. errno says the cause. */
static struct {
    int code;
    char message[1024];
} no_error;

const void *xc_get_last_error(void *xch)
{
    (void)xch;
    return &no_error;
}

const char *xc_error_code_to_desc(int code)
{
    (void)code;
    return "no such domain";
}

/* Up to 4.19: the first domain from `first` on. xc_dominfo_t begins with the domain, a reference and
 * the bits dying, crashed, shutdown. */
int xc_domain_getinfo(void *xch, uint32_t first, unsigned max, uint32_t *info)
{
    uint32_t domid;

    (void)xch;
    for (domid = first; max && domid < DOMAINS; domid++) {
        int state = state_of(domid);

        if (state == NONE)
            continue;
        info[0] = domid;
        info[1] = 0;
        info[2] = (state == DYING ? 1 : 0) | (state == SHUT_DOWN ? 4 : 0);
        return 1;
    }
    return max ? 0 : -1;
}

/* xen_domctl_getdomaininfo begins with the domain, and flags: 1 dying, 4 shutdown, 32 running. */
static void fill(uint16_t domid, void *info)
{
    int state = state_of(domid);
    uint32_t flags = state == DYING ? 1 : state == SHUT_DOWN ? 4 : 32;

    memset(info, 0, 64);
    memcpy(info, &domid, sizeof(domid));
    memcpy((char *)info + 4, &flags, sizeof(flags));
}

int xc_domain_getinfo_single(void *xch, uint32_t domid, void *info)
{
    (void)xch;
    if (state_of(domid) == NONE) {
        errno = ESRCH;
        return -1;
    }
    fill(domid, info);
    return 0;
}

/* One at most: the daemons ask about one. */
int xc_domain_getinfolist(void *xch, uint32_t first, unsigned max, void *info)
{
    uint32_t domid;

    (void)xch;
    for (domid = first; max && domid < DOMAINS; domid++) {
        if (state_of(domid) == NONE)
            continue;
        fill(domid, info);
        return 1;
    }
    return 0;
}

static void *ring_of(uint32_t domid)
{
    char name[32];

    void *page;

    snprintf(name, sizeof(name), "ring-%u", domid);
    page = map_in_world(name);
    if (!page)
        /* As mmap of gntdev fails. */
        errno = EINVAL;
    return page;
}

void *xc_map_foreign_range(void *xch, uint32_t domid, int size, int prot, unsigned long frame)
{
    (void)xch;
    (void)size;
    (void)prot;
    (void)frame;
    return ring_of(domid);
}

/* 4.20's oxenstored asks for the parameters of a ring page that a domain builder made. */
int xc_hvm_param_get(void *xch, uint32_t domid, uint32_t param, uint64_t *value)
{
    (void)xch;
    (void)domid;
    (void)param;
    *value = 0;
    return 0;
}

int xc_hvm_param_set(void *xch, uint32_t domid, uint32_t param, uint64_t value)
{
    (void)xch;
    (void)domid;
    (void)param;
    (void)value;
    return 0;
}

/* --- libxengnttab --- */

void *xengnttab_open(void *logger, unsigned flags)
{
    (void)logger;
    (void)flags;
    return handle;
}

int xengnttab_close(void *xgt)
{
    (void)xgt;
    return 0;
}

int xengnttab_set_max_grants(void *xgt, uint32_t count)
{
    (void)xgt;
    (void)count;
    return 0;
}

void *xengnttab_map_grant_ref(void *xgt, uint32_t domid, uint32_t reference, int prot)
{
    (void)xgt;
    (void)reference;
    (void)prot;
    return ring_of(domid);
}

int xengnttab_unmap(void *xgt, void *page, uint32_t count)
{
    (void)xgt;
    return munmap(page, (size_t)count * PAGE);
}

/* --- libxenevtchn --- */

static int events = -1;

void *xenevtchn_open(void *logger, unsigned flags)
{
    (void)logger;
    (void)flags;
    if (events < 0)
        events = open_in_world("events", O_RDWR | O_NONBLOCK);
    return events < 0 ? NULL : handle;
}

void *xenevtchn_fdopen(void *logger, int fd, unsigned flags)
{
    (void)fd;
    return xenevtchn_open(logger, flags);
}

int xenevtchn_close(void *xce)
{
    (void)xce;
    return 0;
}

int xenevtchn_fd(void *xce)
{
    (void)xce;
    return events;
}

int xenevtchn_bind_interdomain(void *xce, uint32_t domid, uint32_t port)
{
    (void)xce;
    (void)port;
    return PORT_OF_DOMAIN + domid;
}

int xenevtchn_bind_virq(void *xce, unsigned virq)
{
    (void)xce;
    (void)virq;
    return PORT_OF_VIRQ;
}

int xenevtchn_unbind(void *xce, uint32_t port)
{
    (void)xce;
    (void)port;
    return 0;
}

int xenevtchn_unmask(void *xce, uint32_t port)
{
    (void)xce;
    (void)port;
    return 0;
}

int xenevtchn_pending(void *xce)
{
    uint32_t port;

    (void)xce;
    if (read(events, &port, sizeof(port)) != sizeof(port))
        return -1;
    return port;
}

int xenevtchn_notify(void *xce, uint32_t port)
{
    static int bells[DOMAINS];
    char name[32];

    (void)xce;
    if (port < PORT_OF_DOMAIN || port >= PORT_OF_DOMAIN + DOMAINS)
        return 0;
    port -= PORT_OF_DOMAIN;
    if (!bells[port]) {
        snprintf(name, sizeof(name), "bell-%u", port);
        bells[port] = open_in_world(name, O_RDWR | O_NONBLOCK) + 1;
    }
    /* A full FIFO has an event in it. */
    if (bells[port] && write(bells[port] - 1, "!", 1) < 0 && errno != EAGAIN)
        return -1;
    return 0;
}
