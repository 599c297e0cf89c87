/* Clients of the C libraries alone, for the benchmark `overlap`. A client writes one line for each
   event at once, beginning with CLOCK_MONOTONIC in nanoseconds. It connects again when the daemon has
   ended, and exits when its standard input ends.

   client quorum: a client of libquorum that blocks in quorum_dispatch.
     TIME nodelist NODE SEQ MEMBER...
     TIME quorum QUORATE NODE SEQ MEMBER...
     TIME lost

   client counters: reads totem's counters of states entered, every 5 ms.
     TIME counters GATHER OPERATIONAL
     TIME counters lost */
#include <corosync/cmap.h>
#include <corosync/corotypes.h>
#include <corosync/quorum.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t read_clock(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void begin_line(const char *event)
{
	printf("%" PRIu64 " %s", read_clock(), event);
}

static void end_line(void)
{
	putchar('\n');
	if (fflush(stdout) != 0)
		_exit(1);
}

static void print_ring(struct quorum_ring_id ring, uint32_t entries, const uint32_t *members)
{
	printf(" %" PRIu32 " %" PRIu64, ring.nodeid, ring.seq);
	for (uint32_t i = 0; i < entries; i++)
		printf(" %" PRIu32, members[i]);
	end_line();
}

static void on_quorum(quorum_handle_t handle, uint32_t quorate, struct quorum_ring_id ring,
		      uint32_t entries, const uint32_t *members)
{
	(void)handle;
	begin_line("quorum");
	printf(" %" PRIu32, quorate);
	print_ring(ring, entries, members);
}

static void on_nodelist(quorum_handle_t handle, struct quorum_ring_id ring, uint32_t entries,
			const uint32_t *members, uint32_t j, const uint32_t *joined, uint32_t l,
			const uint32_t *left)
{
	(void)handle, (void)j, (void)joined, (void)l, (void)left;
	begin_line("nodelist");
	print_ring(ring, entries, members);
}

/* Returns when the connection has ended or cannot be made. */
static int watch_quorum(void)
{
	quorum_model_v1_data_t model = { .model = QUORUM_MODEL_V1,
					 .quorum_notify_fn = on_quorum,
					 .nodelist_notify_fn = on_nodelist };
	quorum_handle_t handle;
	uint32_t type;

	if (quorum_model_initialize(&handle, QUORUM_MODEL_V1, (quorum_model_data_t *)&model, &type,
				    NULL) != CS_OK)
		return 0;
	if (quorum_trackstart(handle, CS_TRACK_CHANGES) == CS_OK)
		quorum_dispatch(handle, CS_DISPATCH_BLOCKING);
	begin_line("lost");
	end_line();
	return quorum_finalize(handle);
}

/* The socket of a request that waits for an answer, and the time of the request. */
static volatile int asked_on = -1;
static volatile uint64_t asked_at;

/* Ends a request that is not answered within 30 ms. While services synchronise, the daemon answers no
   request of libcmap on an existing connection, and its main loop spins for as long as a request
   waits. Without this the clients would themselves be a fault. */
static void *end_waiting_requests(void *unused)
{
	for (;;) {
		usleep(5000);
		if (asked_on != -1 && read_clock() - asked_at > 30000000) {
			shutdown(asked_on, SHUT_RDWR);
			asked_on = -1;
		}
	}
	return unused;
}

static int watch_counters(void)
{
	int fd, known;
	cmap_handle_t handle;
	uint64_t gather, operational, last_gather = UINT64_MAX, last_operational = UINT64_MAX;

	if (cmap_initialize_map(&handle, CMAP_MAP_STATS) != CS_OK)
		return 0;
	cmap_fd_get(handle, &fd);
	for (;;) {
		asked_at = read_clock();
		asked_on = fd;
		known = cmap_get_uint64(handle, "stats.srp.gather_entered", &gather) == CS_OK &&
			cmap_get_uint64(handle, "stats.srp.operational_entered", &operational) ==
				CS_OK;
		asked_on = -1;
		if (!known)
			break;
		if (gather != last_gather || operational != last_operational) {
			begin_line("counters");
			printf(" %" PRIu64 " %" PRIu64, gather, operational);
			end_line();
		}
		last_gather = gather;
		last_operational = operational;
		usleep(5000);
	}
	begin_line("counters lost");
	end_line();
	cmap_finalize(handle);
	return usleep(200000);
}

static void *exit_with_input(void *unused)
{
	char byte;
	while (read(0, &byte, 1) > 0)
		;
	_exit(0);
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	int counters = argc > 1 && strcmp(argv[1], "counters") == 0;

	pthread_create(&thread, NULL, exit_with_input, NULL);
	if (counters)
		pthread_create(&thread, NULL, end_waiting_requests, NULL);
	for (;;) {
		if (counters)
			watch_counters();
		else
			watch_quorum();
		usleep(20000);
	}
}
