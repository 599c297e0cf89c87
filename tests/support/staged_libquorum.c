/*
 * The real libquorum with a hook: a callback of the test runs before each call of the functions
 * below. All other functions are those of the real library, to which this one is linked.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

#include <corosync/corotypes.h>
#include <corosync/quorum.h>

static void (*before)(const char *function);

/* Sets the callback. */
void staged_before(void (*callback)(const char *function)) { before = callback; }

/* Runs the callback, and returns the function of this name in the real library. */
static void *next(const char *function)
{
	if (before != NULL) {
		before(function);
	}
	return dlsym(RTLD_NEXT, function);
}

cs_error_t quorum_model_initialize(quorum_handle_t *handle, quorum_model_t model,
				   quorum_model_data_t *data, uint32_t *type, void *context)
{
	cs_error_t (*real)(quorum_handle_t *, quorum_model_t, quorum_model_data_t *, uint32_t *,
			   void *) = next(__func__);
	return real(handle, model, data, type, context);
}

cs_error_t quorum_trackstart(quorum_handle_t handle, unsigned int flags)
{
	cs_error_t (*real)(quorum_handle_t, unsigned int) = next(__func__);
	return real(handle, flags);
}

cs_error_t quorum_finalize(quorum_handle_t handle)
{
	cs_error_t (*real)(quorum_handle_t) = next(__func__);
	return real(handle);
}
