# nutproxy/csys.pxd: Linux calls of the data path that Cython's own libc declarations lack.

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void* ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP
    unsigned int EPOLLET
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int maxevents, int timeout)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct sockaddr:
        pass
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    int SOL_SOCKET, SO_ERROR
    int SOCK_NONBLOCK, SOCK_CLOEXEC
    int MSG_NOSIGNAL, SHUT_WR
    int accept4(int fd, sockaddr* addr, socklen_t* addrlen, int flags)
    ssize_t recv(int fd, void* buf, size_t length, int flags)
    ssize_t send(int fd, const void* buf, size_t length, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* length)
    int shutdown(int fd, int how)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID
    int clock_gettime(int clock, timespec* now)
    int clock_nanosleep(int clock, int flags, const timespec* request, timespec* left)

cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_TIMERSLACK
    int prctl(int option, unsigned long value)

cdef extern from "<malloc.h>" nogil:
    int M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
    int mallopt(int parameter, int value)
    int malloc_trim(size_t pad)
    struct mallinfo2_t "struct mallinfo2":
        size_t fordblks                # free bytes of the heap
    mallinfo2_t mallinfo2()

cdef extern from "<sys/mman.h>" nogil:
    int PROT_READ, PROT_WRITE, MAP_SHARED
    void* MAP_FAILED
    void* mmap(void* address, size_t length, int protection, int flags, int fd, int64_t offset)
    int munmap(void* address, size_t length)
    int MADV_DONTNEED
    int madvise(void* address, size_t length, int advice)

cdef extern from *:
    int __builtin_clzll(unsigned long long value) nogil

# Shared memory that several processes write.
cdef extern from * nogil:
    """
    #include <stdint.h>
    #define nutproxy_load(at) __atomic_load_n((at), __ATOMIC_SEQ_CST)
    #define nutproxy_add(at, value) __atomic_add_fetch((at), (value), __ATOMIC_SEQ_CST)
    #define nutproxy_swap(at, value) __atomic_exchange_n((at), (value), __ATOMIC_SEQ_CST)
    static inline int nutproxy_replace(uint64_t *at, uint64_t old, uint64_t value)
    {
        return __atomic_compare_exchange_n(at, &old, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    """
    uint64_t atomic_load "nutproxy_load"(uint64_t* at)
    uint64_t atomic_add "nutproxy_add"(uint64_t* at, uint64_t value)   # returns the new value
    uint64_t atomic_swap "nutproxy_swap"(uint64_t* at, uint64_t value) # returns the old one
    bint atomic_replace "nutproxy_replace"(uint64_t* at, uint64_t old, uint64_t value)
