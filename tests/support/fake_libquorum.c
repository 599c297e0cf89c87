/*
 * A libquorum without a daemon. The fake_... functions set how its functions behave.
 *
 * Variants, each selected by a macro:
 *
 *     NO_MODEL            Has no quorum_model_initialize, like libquorum before Corosync 3.1.
 *     FAIL_KEEPS_HANDLE   A failing initialize stores a handle that must be finalized.
 *     FAIL_CLOSES_ZERO    A failing initialize closes descriptor 0, as libqb does if it cannot
 *                         create a socket.
 *     DATAGRAM            The descriptors are datagram sockets, as with `qb_ipc_type: socket`. They
 *                         do not report their peer.
 *
 * All connections share one queue of notifications. For each notification, every open connection
 * has one byte in its socket, as with the shared memory transport of the real library.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OK = 1, ERR_LIBRARY = 2, TRY_AGAIN = 6, INVALID_PARAM = 7, NO_MEMORY = 8, BAD_HANDLE = 9 };
enum { DISPATCH_ONE = 1, DISPATCH_ALL = 2, DISPATCH_ONE_NONBLOCKING = 4 };

struct ring_id { uint32_t nodeid; uint64_t seq; };

typedef void (*v0_quorum_fn)(uint64_t handle, uint32_t quorate, uint64_t ring_seq,
	uint32_t entries, const uint32_t *list);
typedef void (*v1_quorum_fn)(uint64_t handle, uint32_t quorate, struct ring_id ring,
	uint32_t entries, const uint32_t *list);
typedef void (*v1_nodelist_fn)(uint64_t handle, struct ring_id ring,
	uint32_t entries, const uint32_t *list,
	uint32_t joined_entries, const uint32_t *joined,
	uint32_t left_entries, const uint32_t *left);

struct v0_callbacks { v0_quorum_fn quorum; };
struct v1_data { int model; v1_quorum_fn quorum; v1_nodelist_fn nodelist; };

/* A list that claims to have `entries` ids and has `held` ids. */
struct list { uint32_t entries, held; uint32_t *ids; };
struct notification {
	struct notification *next;
	int is_nodelist;
	uint32_t quorate;
	struct ring_id ring;
	struct list members, joined, left;
};

enum { CONNECTIONS = 64, FUNCTIONS = 10 };

static struct connection {
	int open, model, tracking;
	uint32_t generation;
	int client, server; /* a socket pair; `server` is -1 after a hang-up */
	int dead;
	v0_quorum_fn v0_quorum;
	v1_quorum_fn v1_quorum;
	v1_nodelist_fn v1_nodelist;
	const void *context;
} connections[CONNECTIONS];

static struct function { const char *name; int code, times, calls, blocked; } functions[FUNCTIONS] = {
	{ .name = "quorum_initialize" }, { .name = "quorum_model_initialize" },
	{ .name = "quorum_finalize" }, { .name = "quorum_fd_get" }, { .name = "quorum_dispatch" },
	{ .name = "quorum_getquorate" }, { .name = "quorum_trackstart" },
	{ .name = "quorum_trackstop" }, { .name = "quorum_context_set" },
	{ .name = "quorum_context_get" },
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t unblocked = PTHREAD_COND_INITIALIZER, changed = PTHREAD_COND_INITIALIZER;
static struct notification *first, **last = &first, *newest;
static int quorate_now;
static uint32_t quorum_type = 1;

static struct function *find_function(const char *name)
{
	for (int i = 0; i < FUNCTIONS; i++)
		if (strcmp(functions[i].name, name) == 0)
			return &functions[i];
	abort();
}

/* Locks the mutex, counts the call, and waits while the function is blocked. Returns the code that
 * fake_return set for this call, or 0. */
static int enter(const char *name)
{
	pthread_mutex_lock(&mutex);
	struct function *function = find_function(name);
	function->calls++;
	while (function->blocked)
		pthread_cond_wait(&unblocked, &mutex);
	if (function->times == 0)
		return 0;
	if (function->times > 0)
		function->times--;
	return function->code;
}

static int leave(int code)
{
	pthread_mutex_unlock(&mutex);
	return code;
}

static struct connection *find_connection(uint64_t handle)
{
	uint32_t slot = (uint32_t)handle;
	if (slot >= CONNECTIONS || !connections[slot].open || connections[slot].generation != handle >> 32)
		return NULL;
	return &connections[slot];
}

static void wake(struct connection *connection)
{
	/* If the socket is full, it is readable already. */
	send(connection->server, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void wake_all(void)
{
	for (int i = 0; i < CONNECTIONS; i++)
		if (connections[i].open && !connections[i].dead)
			wake(&connections[i]);
}

static struct connection *open_connection(uint64_t *handle)
{
#ifdef DATAGRAM
	int type = SOCK_DGRAM;
#else
	int type = SOCK_STREAM;
#endif
	int fds[2], slot = 0;
	while (slot < CONNECTIONS && connections[slot].open)
		slot++;
	if (slot == CONNECTIONS || socketpair(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0)
		return NULL;
	struct connection *connection = &connections[slot];
	*connection = (struct connection){
		.open = 1, .generation = connection->generation + 1, .client = fds[0], .server = fds[1],
	};
	for (struct notification *n = first; n; n = n->next)
		wake(connection);
	*handle = (uint64_t)connection->generation << 32 | (uint32_t)slot;
	return connection;
}

static int fails(int code)
{
#ifdef FAIL_KEEPS_HANDLE
	(void)code;
	return 0;
#else
	return code != 0 && code != OK;
#endif
}

static int refuse(int code)
{
#ifdef FAIL_CLOSES_ZERO
	close(0);
#endif
	return leave(code);
}

int quorum_initialize(uint64_t *handle, struct v0_callbacks *callbacks, uint32_t *type)
{
	int code = enter("quorum_initialize");
	if (fails(code))
		return refuse(code);
	struct connection *connection = open_connection(handle);
	if (!connection)
		return leave(NO_MEMORY);
	if (callbacks)
		connection->v0_quorum = callbacks->quorum;
	if (type)
		*type = quorum_type;
	return leave(code ? code : OK);
}

#ifndef NO_MODEL
int quorum_model_initialize(uint64_t *handle, int model, void *data, uint32_t *type, void *context)
{
	int code = enter("quorum_model_initialize");
	if (fails(code))
		return refuse(code);
	if (model != 0 && model != 1)
		return leave(INVALID_PARAM);
	struct connection *connection = open_connection(handle);
	if (!connection)
		return leave(NO_MEMORY);
	connection->model = model;
	connection->context = context;
	struct v1_data *callbacks = data;
	if (callbacks && model == 0)
		connection->v0_quorum = (v0_quorum_fn)callbacks->quorum;
	if (callbacks && model == 1) {
		connection->v1_quorum = callbacks->quorum;
		connection->v1_nodelist = callbacks->nodelist;
	}
	if (type)
		*type = quorum_type;
	return leave(code ? code : OK);
}
#endif

int quorum_finalize(uint64_t handle)
{
	int code = enter("quorum_finalize");
	struct connection *connection = find_connection(handle);
	if (!connection)
		return leave(code ? code : BAD_HANDLE);
	if (fails(code))
		return leave(code);
	shutdown(connection->client, SHUT_RDWR);
	close(connection->client);
	if (connection->server >= 0)
		close(connection->server);
	connection->open = 0;
	return leave(code ? code : OK);
}

int quorum_fd_get(uint64_t handle, int *fd)
{
	int code = enter("quorum_fd_get");
	struct connection *connection = find_connection(handle);
	if (code)
		return leave(code);
	if (!connection)
		return leave(BAD_HANDLE);
	*fd = connection->client;
	return leave(OK);
}

static void deliver(uint64_t handle, struct connection to, struct notification *n)
{
	if (n->is_nodelist) {
		if (to.v1_nodelist)
			to.v1_nodelist(handle, n->ring, n->members.entries, n->members.ids,
				n->joined.entries, n->joined.ids, n->left.entries, n->left.ids);
	} else if (to.model == 1) {
		if (to.v1_quorum)
			to.v1_quorum(handle, n->quorate, n->ring, n->members.entries, n->members.ids);
	} else if (to.v0_quorum) {
		to.v0_quorum(handle, n->quorate, n->ring.seq, n->members.entries, n->members.ids);
	}
	/* As in the real library, the lists are valid only during the callback. */
	struct list lists[] = { n->members, n->joined, n->left };
	for (int i = 0; i < 3; i++) {
		if (lists[i].ids)
			memset(lists[i].ids, 0xff, lists[i].held * sizeof *lists[i].ids);
		free(lists[i].ids);
	}
	free(n);
}

int quorum_dispatch(uint64_t handle, int how)
{
	int code = enter("quorum_dispatch");
	if (code)
		return leave(code);
	if (how != DISPATCH_ONE && how != DISPATCH_ALL && how != DISPATCH_ONE_NONBLOCKING)
		return leave(INVALID_PARAM);
	for (;;) {
		struct connection *connection = find_connection(handle);
		if (!connection)
			return leave(BAD_HANDLE);
		char byte;
		if (connection->dead)
			return leave(ERR_LIBRARY);
		if (!first && how == DISPATCH_ONE) {
			pthread_cond_wait(&changed, &mutex);
			continue;
		}
		if (!first) {
			/* The queue is empty: discard the remaining bytes. */
			while (recv(connection->client, &byte, 1, MSG_DONTWAIT) == 1)
				;
			return leave(how == DISPATCH_ALL ? OK : TRY_AGAIN);
		}
		struct notification *n = first;
		first = n->next;
		if (!first)
			last = &first;
		if (newest == n)
			newest = NULL;
		recv(connection->client, &byte, 1, MSG_DONTWAIT);
		struct connection to = *connection;
		pthread_mutex_unlock(&mutex);
		int unknown = n->is_nodelist && to.model == 0;
		deliver(handle, to, n);
		if (how != DISPATCH_ALL && !unknown)
			return OK;
		pthread_mutex_lock(&mutex);
	}
}

/* Returns the result of a request to the daemon. */
static int request(uint64_t handle)
{
	struct connection *connection = find_connection(handle);
	return !connection ? BAD_HANDLE : connection->dead ? ERR_LIBRARY : OK;
}

int quorum_getquorate(uint64_t handle, int *quorate)
{
	int code = enter("quorum_getquorate");
	if (!code)
		code = request(handle);
	if (code == OK)
		*quorate = quorate_now;
	return leave(code);
}

int quorum_trackstart(uint64_t handle, unsigned int flags)
{
	(void)flags;
	int code = enter("quorum_trackstart");
	if (!code && (code = request(handle)) == 1)
		find_connection(handle)->tracking = 1;
	return leave(code);
}

int quorum_trackstop(uint64_t handle)
{
	int code = enter("quorum_trackstop");
	return leave(code ? code : request(handle));
}

int quorum_context_set(uint64_t handle, const void *context)
{
	int code = enter("quorum_context_set");
	struct connection *connection = find_connection(handle);
	if (code)
		return leave(code);
	if (!connection)
		return leave(BAD_HANDLE);
	connection->context = context;
	return leave(OK);
}

int quorum_context_get(uint64_t handle, const void **context)
{
	int code = enter("quorum_context_get");
	struct connection *connection = find_connection(handle);
	if (code)
		return leave(code);
	if (!connection)
		return leave(BAD_HANDLE);
	*context = connection->context;
	return leave(OK);
}

/* Makes the next `times` calls of a function return this code and do nothing else. A negative
 * `times` means all calls. */
void fake_return(const char *function, int code, int times)
{
	pthread_mutex_lock(&mutex);
	struct function *f = find_function(function);
	f->code = code;
	f->times = times;
	pthread_mutex_unlock(&mutex);
}

/* Makes calls of a function wait until the function is unblocked, as if the daemon hung. */
void fake_block(const char *function, int blocked)
{
	pthread_mutex_lock(&mutex);
	find_function(function)->blocked = blocked;
	pthread_cond_broadcast(&unblocked);
	pthread_mutex_unlock(&mutex);
}

int fake_calls(const char *function)
{
	pthread_mutex_lock(&mutex);
	return leave(find_function(function)->calls);
}

int fake_tracking_handles(void)
{
	int tracking = 0;
	pthread_mutex_lock(&mutex);
	for (int i = 0; i < CONNECTIONS; i++)
		tracking += connections[i].open && connections[i].tracking;
	return leave(tracking);
}

int fake_open_handles(void)
{
	int open = 0;
	pthread_mutex_lock(&mutex);
	for (int i = 0; i < CONNECTIONS; i++)
		open += connections[i].open;
	return leave(open);
}

void fake_quorum_type(uint32_t type)
{
	pthread_mutex_lock(&mutex);
	quorum_type = type;
	pthread_mutex_unlock(&mutex);
}

/* Sets the answer of quorum_getquorate. */
void fake_quorate(int quorate)
{
	pthread_mutex_lock(&mutex);
	quorate_now = quorate;
	pthread_mutex_unlock(&mutex);
}

/* Makes the descriptors readable although no notification is waiting. */
void fake_wake(void)
{
	pthread_mutex_lock(&mutex);
	wake_all();
	pthread_mutex_unlock(&mutex);
}

/* Simulates the death of the daemon: all open connections end, and the queued notifications are
 * lost. If `silently`, the descriptors do not become readable, as with the socket transport. */
void fake_hang_up(int silently)
{
	pthread_mutex_lock(&mutex);
	for (int i = 0; i < CONNECTIONS; i++) {
		struct connection *connection = &connections[i];
		if (!connection->open || connection->dead)
			continue;
		connection->dead = 1;
		if (!silently) {
			close(connection->server);
			connection->server = -1;
		}
	}
	while (first) {
		struct notification *n = first;
		first = n->next;
		free(n->members.ids);
		free(n->joined.ids);
		free(n->left.ids);
		free(n);
	}
	last = &first;
	newest = NULL;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&mutex);
}

static struct list copy(uint32_t entries, const uint32_t *ids)
{
	struct list list = { entries, entries, NULL };
	if (ids) {
		list.ids = malloc(entries ? entries * sizeof *ids : 1);
		memcpy(list.ids, ids, entries * sizeof *ids);
	}
	return list;
}

static void push(struct notification notification)
{
	struct notification *n = malloc(sizeof *n);
	*n = notification;
	pthread_mutex_lock(&mutex);
	*last = n;
	last = &n->next;
	newest = n;
	pthread_cond_broadcast(&changed);
	wake_all();
	pthread_mutex_unlock(&mutex);
}

/* `members` may be null, and so may the lists of fake_push_nodelist. */
void fake_push_quorum(uint32_t quorate, uint32_t nodeid, uint64_t seq,
	uint32_t entries, const uint32_t *members)
{
	fake_quorate(quorate != 0);
	push((struct notification){
		.quorate = quorate, .ring = { nodeid, seq }, .members = copy(entries, members),
	});
}

void fake_push_nodelist(uint32_t nodeid, uint64_t seq, uint32_t entries, const uint32_t *members,
	uint32_t joined_entries, const uint32_t *joined, uint32_t left_entries, const uint32_t *left)
{
	push((struct notification){
		.is_nodelist = 1, .ring = { nodeid, seq }, .members = copy(entries, members),
		.joined = copy(joined_entries, joined), .left = copy(left_entries, left),
	});
}

/* Makes the notification that was queued last claim these lengths of its lists. It must not have
 * been dispatched. */
void fake_claim(uint32_t members, uint32_t joined, uint32_t left)
{
	pthread_mutex_lock(&mutex);
	if (!newest)
		abort();
	newest->members.entries = members;
	newest->joined.entries = joined;
	newest->left.entries = left;
	pthread_mutex_unlock(&mutex);
}
