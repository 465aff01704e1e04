// nghttp2's header, plus the functions that Debian backported to 1.52 and upstream 1.52 does not have.
#ifndef CNGHTTP2_SHIM_H
#define CNGHTTP2_SHIM_H

#include <nghttp2/nghttp2.h>

#endif
