# cython: language_level=3
"""What the media plane asks of the system: memory, threads, time, sockets, poll, epoll, eventfd, and words that threads share."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.time cimport timespec


cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *signals)
    int SIG_SETMASK


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    cdef struct sched_param:
        int sched_priority
    int pthread_create(pthread_t *thread, const void *attributes, void *(*body)(void *) noexcept nogil, void *argument)
    int pthread_join(pthread_t thread, void **result)
    int pthread_setschedparam(pthread_t thread, int policy, const sched_param *parameter)
    int pthread_setname_np(pthread_t thread, const char *name)
    int pthread_sigmask(int how, const sigset_t *signals, sigset_t *before)
    int SCHED_FIFO


cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)


cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *memory, size_t size, int advice)
    int MADV_HUGEPAGE


cdef extern from "<time.h>" nogil:
    int clock_nanosleep(int clock, int flags, const timespec *until, timespec *left)
    int TIMER_ABSTIME


cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr


cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, unsigned long value)
    int PR_SET_TIMERSLACK


cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)
    int inet_pton(int family, const char *text, void *address)
    const char *inet_ntop(int family, const void *address, char *text, unsigned size)


cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len


cdef extern from "<sys/socket.h>" nogil:
    int AF_UNSPEC, AF_INET, AF_INET6
    int MSG_DONTWAIT, MSG_TRUNC
    int SOL_SOCKET, SO_TIMESTAMPNS, SCM_TIMESTAMPNS
    cdef struct msghdr:
        void *msg_name
        unsigned msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned msg_len
    cdef struct cmsghdr:
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *header)
    void *CMSG_DATA(cmsghdr *header)
    int connect_socket "connect"(int fd, const sockaddr *address, unsigned size)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t sendto(int fd, const void *data, size_t size, int flags, const sockaddr *address, unsigned address_size)
    ssize_t recvfrom(int fd, void *data, size_t size, int flags, sockaddr *address, unsigned *address_size)
    int recvmmsg(int fd, mmsghdr *messages, unsigned count, int flags, timespec *timeout)
    int setsockopt(int fd, int level, int name, const void *value, unsigned size)


cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned value, int flags)
    int EFD_NONBLOCK, EFD_CLOEXEC


cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)
    int POLLIN


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int room, int timeout_ms)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL
    uint32_t EPOLLIN


cdef extern from *:
    # Acquire and release order what one side writes before it publishes and the other reads after it looks. A flag that
    # says "I wait" and the state that it waits for are written by different sides, so both need the total order.
    """
    #define shared_acquire(word) __atomic_load_n(word, __ATOMIC_ACQUIRE)
    #define shared_release(word, value) __atomic_store_n(word, value, __ATOMIC_RELEASE)
    #define shared_settle(word, value) __atomic_store_n(word, value, __ATOMIC_SEQ_CST)
    #define shared_settled(word) __atomic_load_n(word, __ATOMIC_SEQ_CST)
    #define shared_take(word, value) __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST)
    #define shared_increase(word, value) __atomic_add_fetch(word, value, __ATOMIC_SEQ_CST)
    /* Puts `value` where `*expected` is; otherwise says in `*expected` what is there. */
    #define shared_replace(word, expected, value) \
        __atomic_compare_exchange_n(word, expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE)
    """
    uint64_t acquire "shared_acquire"(const uint64_t *word) nogil
    void release "shared_release"(uint64_t *word, uint64_t value) nogil
    int32_t settled "shared_settled"(const int32_t *word) nogil
    uint64_t settled_word "shared_settled"(const uint64_t *word) nogil
    void settle "shared_settle"(int32_t *word, int32_t value) nogil
    void settle_word "shared_settle"(uint64_t *word, uint64_t value) nogil
    int32_t take "shared_take"(int32_t *word, int32_t value) nogil
    int32_t increase "shared_increase"(int32_t *word, int32_t value) nogil
    bint replace "shared_replace"(uint64_t *word, uint64_t *expected, uint64_t value) nogil
    void prefetch "__builtin_prefetch"(const void *memory) nogil
