/* The real libquorum, with something done right before some of its functions are called. What is
 * not here is found in the real one, which this is linked to. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

#include <corosync/corotypes.h>
#include <corosync/quorum.h>

static void (*before)(const char *function);

void staged_before(void (*callback)(const char *function)) { before = callback; }

/* The function of the library that this one depends on. */
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
