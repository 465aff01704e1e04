// c-ares' header, and its statuses as constants: macros in 1.18, members of an enumeration later.
#ifndef CCARES_SHIM_H
#define CCARES_SHIM_H

// First, so that the types of sockets stay CLinux' own.
#include "../CLinux/shim.h"

#include <ares.h>

static const int ccares_success = ARES_SUCCESS;
static const int ccares_not_found = ARES_ENOTFOUND;
static const int ccares_no_data = ARES_ENODATA;
static const int ccares_timeout = ARES_ETIMEOUT;
static const int ccares_refused = ARES_ECONNREFUSED;
static const int ccares_destruction = ARES_EDESTRUCTION;

#endif
