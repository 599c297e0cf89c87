/* A client in C that records the time of each quorum notification. It prints "ready" at the first one.
   When its standard input ends, it writes the times (doubled, plus 1 if quorate), its counts and the CPU
   times (see client.rs), and exits.

   client blocking|epoll|handover [NANOSECONDS]: with a number, it computes for this time before each
   dispatch. `handover` passes the notifications to a second thread.

   client ticks NANOSECONDS: wakes up at this interval and does nothing; it has no connection.

   client counters NANOSECONDS: reads two counters of the ring at this interval, and nothing else. */
#include <corosync/cmap.h>
#include <corosync/corotypes.h>
#include <corosync/quorum.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_RECORDS 1000000

static uint64_t times[MAX_RECORDS];
static volatile size_t count;
/* The CPU time of the thread when it was woken, and the CPU times from the wake-up to the handler. */
static uint64_t woken;
static uint64_t spent[MAX_RECORDS];
static uint64_t work;
static int hand_over = -1;
static volatile uint32_t handed[1024];

static uint64_t read_clock(clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void compute(void)
{
	uint64_t end = read_clock(CLOCK_THREAD_CPUTIME_ID) + work;
	while (work > 0 && read_clock(CLOCK_THREAD_CPUTIME_ID) < end)
		;
}

static void record(uint32_t quorate)
{
	uint64_t nanos = read_clock(CLOCK_MONOTONIC);
	if (count < MAX_RECORDS) {
		times[count] = nanos * 2 + (quorate != 0);
		spent[count] = woken > 0 ? read_clock(CLOCK_THREAD_CPUTIME_ID) - woken : 0;
	}
	count++;
	if (count == 1 && write(1, "ready\n", 6) != 6)
		_exit(1);
}

static void on_quorum(quorum_handle_t handle, uint32_t quorate, struct quorum_ring_id ring,
		      uint32_t entries, const uint32_t *list)
{
	(void)handle, (void)ring, (void)entries, (void)list;
	if (hand_over == -1) {
		record(quorate);
	} else {
		uint64_t one = 1;
		static size_t next;
		handed[next++ % 1024] = quorate;
		if (write(hand_over, &one, sizeof one) != sizeof one)
			_exit(1);
	}
}

static void on_nodelist(quorum_handle_t handle, struct quorum_ring_id ring, uint32_t members,
			const uint32_t *m, uint32_t joined, const uint32_t *j, uint32_t left,
			const uint32_t *l)
{
	(void)handle, (void)ring, (void)members, (void)m, (void)joined, (void)j, (void)left, (void)l;
}

/* The second thread, which receives the notifications as an actor on another arbiter does. */
static void *other_thread(void *unused)
{
	size_t next = 0;
	int epoll = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN };
	epoll_ctl(epoll, EPOLL_CTL_ADD, hand_over, &event);
	for (;;) {
		uint64_t waiting;
		if (epoll_wait(epoll, &event, 1, -1) == 1 &&
		    read(hand_over, &waiting, sizeof waiting) == sizeof waiting)
			for (; waiting > 0; waiting--)
				record(handed[next++ % 1024]);
	}
	return unused;
}

static void write_all(const void *data, size_t bytes)
{
	for (size_t written = 0; written < bytes;) {
		ssize_t n = write(1, (const char *)data + written, bytes - written);
		if (n <= 0)
			_exit(1);
		written += n;
	}
}

static void *wait_for_the_end(void *unused)
{
	char byte;
	uint64_t counts[] = { UINT64_MAX, 0, 0, 0 };
	while (read(0, &byte, 1) > 0)
		;
	write_all(times, count * sizeof times[0]);
	write_all(counts, sizeof counts);
	write_all(spent, count * sizeof spent[0]);
	_exit(0);
	return unused;
}

/* Reads the counters that show that a ring goes on. */
static int read_counters(cmap_handle_t statistics)
{
	static const char *const keys[] = { "stats.srp.gather_entered", "stats.srp.orf_token_rx" };
	uint64_t value;
	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
		if (cmap_get_uint64(statistics, keys[i], &value) != CS_OK)
			return 1;
	return 0;
}

/* Wakes up at this interval, and reads the counters if there is a connection to them. */
static int tick(long nanos, const cmap_handle_t *statistics)
{
	struct timespec every = { nanos / 1000000000, nanos % 1000000000 };
	struct itimerspec period = { every, every };
	struct epoll_event event = { .events = EPOLLIN };
	int timer = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK), epoll = epoll_create1(0);
	uint64_t ticks;

	timerfd_settime(timer, 0, &period, NULL);
	epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event);
	record(1);
	for (;;)
		if (epoll_wait(epoll, &event, 1, -1) == 1 &&
		    (read(timer, &ticks, sizeof ticks) < 0 || (statistics && read_counters(*statistics))))
			return 1;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	quorum_handle_t handle;
	quorum_model_v1_data_t model = { .model = QUORUM_MODEL_V1,
					 .quorum_notify_fn = on_quorum,
					 .nodelist_notify_fn = on_nodelist };
	uint32_t type;
	pthread_t thread;
	int fd;

	work = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
	memset(times, 0, sizeof times);
	if (strcmp(mode, "handover") == 0) {
		hand_over = eventfd(0, EFD_NONBLOCK);
		pthread_create(&thread, NULL, other_thread, NULL);
	}
	pthread_create(&thread, NULL, wait_for_the_end, NULL);
	if (strcmp(mode, "ticks") == 0)
		return tick(work, NULL);
	if (strcmp(mode, "counters") == 0) {
		cmap_handle_t statistics;
		return cmap_initialize_map(&statistics, CMAP_MAP_STATS) != CS_OK || tick(work, &statistics);
	}
	if (quorum_model_initialize(&handle, QUORUM_MODEL_V1, (quorum_model_data_t *)&model, &type,
				    NULL) != CS_OK ||
	    quorum_trackstart(handle, CS_TRACK_CHANGES) != CS_OK ||
	    quorum_fd_get(handle, &fd) != CS_OK)
		return 1;
	if (strcmp(mode, "blocking") == 0)
		return quorum_dispatch(handle, CS_DISPATCH_BLOCKING);
	int epoll = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN };
	epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
	for (;;) {
		if (epoll_wait(epoll, &event, 1, -1) != 1)
			continue;
		if (hand_over == -1)
			woken = read_clock(CLOCK_THREAD_CPUTIME_ID);
		compute();
		if (quorum_dispatch(handle, CS_DISPATCH_ALL) != CS_OK)
			return 1;
	}
}
