/*
 * A server of libqb's IPC that does not implement quorum. A test gives it rules: which bytes to
 * send, and when. The server prints each event that occurs.
 *
 *     hostile UID shm|socket SERVICE...
 *
 * The server reads one command per line from the standard input, and prints "done" after each:
 *
 *     on SERVICE WHEN STEP...   Run these steps whenever WHEN occurs. WHEN is "accept", "closed",
 *                               the number of a request, or a key that a client requests from
 *                               cmap. A rule for a key takes precedence over one for a number.
 *     now SERVICE STEP...       Run these steps now, on each connection that has sent the request to
 *                               track: number 1, and 7 to cmap.
 *     large SERVICE             Make the buffers of later connections large enough for messages of
 *                               2 MiB.
 *     listen SERVICE            Start to accept connections.
 *
 * Steps:
 *
 *     reply BYTES               Send a response. BYTES are hexadecimal digits.
 *     event BYTES               Send an event.
 *     flood COUNT BYTES BYTES   Send COUNT events, alternately the first and the second, as fast as
 *                               the client reads them. Print "flooded" after the last one.
 *     refuse ERRNO              Refuse the connection. Only after "accept".
 *     disconnect                Close the connection.
 *     stop                      Send SIGSTOP to this process.
 *     die                       Send SIGKILL to this process.
 *
 * Printed events: "accept SERVICE", "request SERVICE NUMBER", "closed SERVICE", and "key KEY" when
 * a client requests a key from cmap.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <qb/qbdefs.h>
#include <qb/qbipcs.h>
#include <qb/qbloop.h>

enum { SERVICES = 3, TRACKSTART = 1, CMAP_GET = 2, CMAP_TRACK_ADD = 7 };

static qb_loop_t *loop;
static struct service { const char *name; qb_ipcs_service_t *ipcs; } services[SERVICES];
static struct rule { struct rule *next; int service; char *when, *steps; } *rules;
static struct flood {
	qb_ipcs_connection_t *to; /* NULL if no flood is running */
	long sent, count;
	struct bytes { char *data; size_t size; } events[2];
} flood;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static struct bytes parse(const char *hex)
{
	static const char digits[] = "0123456789abcdef";
	struct bytes bytes = { malloc(strlen(hex) / 2 + 1), strlen(hex) / 2 };
	for (size_t i = 0; i < bytes.size; i++, hex += 2)
		bytes.data[i] = (strchr(digits, hex[0]) - digits) << 4 | (strchr(digits, hex[1]) - digits);
	return bytes;
}

static void continue_flood(void *unused)
{
	(void)unused;
	if (!flood.to)
		return;
	/* At most 500 events per turn, so that other clients are served as well. */
	for (int turn = 0; turn < 500 && flood.sent < flood.count; turn++) {
		struct bytes event = flood.events[flood.sent % 2];
		ssize_t sent = qb_ipcs_event_send(flood.to, event.data, event.size);
		if (sent == -EAGAIN)
			break;
		if (sent < 0)
			return;
		flood.sent++;
	}
	if (flood.sent == flood.count) {
		flood.to = NULL;
		puts("flooded");
	} else {
		qb_loop_timer_add(loop, QB_LOOP_LOW, QB_TIME_NS_IN_MSEC, NULL, continue_flood, NULL);
	}
}

static const char *next_word(char **text)
{
	const char *word = strtok_r(NULL, " ", text);
	return word ? word : "";
}

/*
 * Closes a connection, if it is still open. libqb may have closed it already, and must not be asked
 * to close it twice. Releases the reference that the step "disconnect" took.
 */
static void disconnect(void *connection)
{
	qb_ipcs_service_t *ipcs = services[qb_ipcs_service_id_get(connection)].ipcs;
	qb_ipcs_connection_t *c = qb_ipcs_connection_first_get(ipcs);
	while (c && c != connection) {
		qb_ipcs_connection_t *next = qb_ipcs_connection_next_get(ipcs, c);
		qb_ipcs_connection_unref(c);
		c = next;
	}
	if (c) {
		qb_ipcs_disconnect(c);
		qb_ipcs_connection_unref(c);
	}
	qb_ipcs_connection_unref(connection);
}

/* Runs the steps. Returns 0, or the negative error number of the step "refuse". */
static int run(qb_ipcs_connection_t *c, const char *steps)
{
	char *line = strdup(steps), *rest, *step;
	int accepted = 0;
	for (step = strtok_r(line, " ", &rest); step; step = strtok_r(NULL, " ", &rest)) {
		if (strcmp(step, "reply") == 0 || strcmp(step, "event") == 0) {
			struct bytes bytes = parse(next_word(&rest));
			ssize_t sent = *step == 'r' ? qb_ipcs_response_send(c, bytes.data, bytes.size)
				: qb_ipcs_event_send(c, bytes.data, bytes.size);
			if (sent < 0)
				printf("not sent %zd\n", sent);
			free(bytes.data);
		} else if (strcmp(step, "flood") == 0) {
			flood = (struct flood){ .to = c, .count = atol(next_word(&rest)) };
			flood.events[0] = parse(next_word(&rest));
			flood.events[1] = parse(next_word(&rest));
			continue_flood(NULL);
		} else if (strcmp(step, "refuse") == 0) {
			accepted = -atoi(next_word(&rest));
		} else if (strcmp(step, "disconnect") == 0) {
			qb_ipcs_connection_ref(c);
			qb_loop_job_add(loop, QB_LOOP_HIGH, c, disconnect);
		} else if (strcmp(step, "stop") == 0) {
			kill(getpid(), SIGSTOP);
		} else if (strcmp(step, "die") == 0) {
			kill(getpid(), SIGKILL);
		} else {
			fail(step);
		}
	}
	free(line);
	return accepted;
}

static struct rule **find_rule(int service, const char *when)
{
	struct rule **rule = &rules;
	while (*rule && ((*rule)->service != service || strcmp((*rule)->when, when) != 0))
		rule = &(*rule)->next;
	return rule;
}

static int react(qb_ipcs_connection_t *c, const char *when)
{
	struct rule *rule = *find_rule(qb_ipcs_service_id_get(c), when);
	return rule ? run(c, rule->steps) : 0;
}

static const char *name(qb_ipcs_connection_t *c)
{
	return services[qb_ipcs_service_id_get(c)].name;
}

static int32_t on_accept(qb_ipcs_connection_t *c, uid_t uid, gid_t gid)
{
	(void)uid, (void)gid;
	printf("accept %s\n", name(c));
	return react(c, "accept");
}

static int32_t on_request(qb_ipcs_connection_t *c, void *data, size_t size)
{
	struct qb_ipc_request_header *header = data;
	/* The offset of the key in the request (corosync, include/corosync/ipc_cmap.h). */
	enum { KEY = 24 };
	char number[16];
	snprintf(number, sizeof number, "%d", header->id);
	printf("request %s %s\n", name(c), number);
	int is_cmap = strcmp(name(c), "cmap") == 0;
	if (header->id == (is_cmap ? CMAP_TRACK_ADD : TRACKSTART))
		qb_ipcs_context_set(c, c);
	const char *key = NULL;
	if (header->id == CMAP_GET && is_cmap && size > KEY)
		printf("key %s\n", key = (char *)data + KEY);
	react(c, key && *find_rule(qb_ipcs_service_id_get(c), key) ? key : number);
	return 0;
}

static int32_t on_closed(qb_ipcs_connection_t *c)
{
	printf("closed %s\n", name(c));
	if (flood.to == c)
		flood.to = NULL;
	react(c, "closed");
	return 0;
}

static int find_service(const char *name)
{
	for (int i = 0; i < SERVICES; i++)
		if (services[i].name && strcmp(services[i].name, name) == 0)
			return i;
	errno = EINVAL;
	fail(name);
	return -1;
}

static void run_command(char *line)
{
	char *rest;
	const char *verb = strtok_r(line, " ", &rest);
	int service = find_service(next_word(&rest));
	if (strcmp(verb, "on") == 0) {
		const char *when = next_word(&rest);
		struct rule **rule = find_rule(service, when);
		if (!*rule) {
			*rule = calloc(1, sizeof **rule);
			**rule = (struct rule){ .service = service, .when = strdup(when) };
		}
		free((*rule)->steps);
		(*rule)->steps = strdup(rest);
	} else if (strcmp(verb, "large") == 0) {
		qb_ipcs_enforce_buffer_size(services[service].ipcs, 2 << 20);
	} else if (strcmp(verb, "listen") == 0) {
		int failed = qb_ipcs_run(services[service].ipcs);
		if (failed) {
			errno = -failed;
			fail(services[service].name);
		}
	} else {
		qb_ipcs_service_t *ipcs = services[service].ipcs;
		qb_ipcs_connection_t *c = qb_ipcs_connection_first_get(ipcs);
		while (c) {
			qb_ipcs_connection_t *next = qb_ipcs_connection_next_get(ipcs, c);
			if (qb_ipcs_context_get(c))
				run(c, rest);
			qb_ipcs_connection_unref(c);
			c = next;
		}
	}
	puts("done");
}

static int32_t on_input(int32_t fd, int32_t revents, void *unused)
{
	static char *input;
	static size_t size, used;
	(void)revents, (void)unused;
	if (size - used < 4096)
		input = realloc(input, size = 2 * size + 8192);
	ssize_t got = read(fd, input + used, size - used);
	if (got <= 0)
		exit(0); /* The test has ended. */
	used += got;
	for (char *end; (end = memchr(input, '\n', used)) != NULL;) {
		size_t length = end + 1 - input;
		*end = '\0';
		run_command(input);
		memmove(input, input + length, used -= length);
	}
	return 0;
}

static int32_t add_job(enum qb_loop_priority p, void *data, qb_loop_job_dispatch_fn f)
{
	return qb_loop_job_add(loop, p, data, f);
}

static int32_t add_fd(enum qb_loop_priority p, int32_t fd, int32_t events, void *data,
	qb_ipcs_dispatch_fn_t f)
{
	return qb_loop_poll_add(loop, p, fd, events, data, f);
}

static int32_t change_fd(enum qb_loop_priority p, int32_t fd, int32_t events, void *data,
	qb_ipcs_dispatch_fn_t f)
{
	return qb_loop_poll_mod(loop, p, fd, events, data, f);
}

static int32_t remove_fd(int32_t fd)
{
	return qb_loop_poll_del(loop, fd);
}

int main(int argc, char **argv)
{
	if (argc < 4 || argc - 3 > SERVICES)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	uid_t uid = atoi(argv[1]);
	if (uid && (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid)))
		fail("another user");
	enum qb_ipc_type type = strcmp(argv[2], "shm") == 0 ? QB_IPC_SHM : QB_IPC_SOCKET;
	loop = qb_loop_create();
	for (int i = 0; i < argc - 3; i++) {
		struct qb_ipcs_service_handlers handlers = {
			.connection_accept = on_accept, .msg_process = on_request,
			.connection_closed = on_closed,
		};
		struct qb_ipcs_poll_handlers poll = {
			.job_add = add_job, .dispatch_add = add_fd, .dispatch_mod = change_fd,
			.dispatch_del = remove_fd,
		};
		qb_ipcs_service_t *ipcs = qb_ipcs_create(argv[i + 3], i, type, &handlers);
		services[i] = (struct service){ argv[i + 3], ipcs };
		qb_ipcs_poll_handlers_set(ipcs, &poll);
	}
	qb_loop_poll_add(loop, QB_LOOP_HIGH, 0, POLLIN, NULL, on_input);
	puts("done");
	qb_loop_run(loop);
	return 0;
}
