// nghttp2's header, plus the functions that Debian backported to 1.52 and upstream 1.52 does not have: they are declared
// weak here, so that one binary runs with either library and finds out at run time.
#ifndef CNGHTTP2_SHIM_H
#define CNGHTTP2_SHIM_H

#include <nghttp2/nghttp2.h>

__attribute__((weak)) extern void nghttp2_option_set_stream_reset_rate_limit(nghttp2_option *option, uint64_t burst,
                                                                             uint64_t rate);
__attribute__((weak)) extern void nghttp2_option_set_max_continuations(nghttp2_option *option, size_t val);

// Returns 0 where the library has no guard against rapid reset (CVE-2023-44487).
static inline int cnghttp2_set_stream_reset_rate_limit(nghttp2_option *option, uint64_t burst, uint64_t rate) {
    if (!nghttp2_option_set_stream_reset_rate_limit) return 0;
    nghttp2_option_set_stream_reset_rate_limit(option, burst, rate);
    return 1;
}

// Returns 0 where the library has no guard against CONTINUATION floods (CVE-2024-28182).
static inline int cnghttp2_set_max_continuations(nghttp2_option *option, size_t count) {
    if (!nghttp2_option_set_max_continuations) return 0;
    nghttp2_option_set_max_continuations(option, count);
    return 1;
}

// Members of nghttp2_frame, a union of structs that all begin with the header.
static inline const nghttp2_frame_hd *cnghttp2_header(const nghttp2_frame *frame) { return &frame->hd; }

#endif
