// libssh2's headers, plus its short macros, which Swift cannot import.
#ifndef CLIBSSH2_SHIM_H
#define CLIBSSH2_SHIM_H

#include <libssh2.h>
#include <libssh2_sftp.h>
#include <malloc.h>

// How many bytes of a block from malloc may be read: at least as many as were asked for.
static inline size_t clibssh2_block_size(void *block) { return malloc_usable_size(block); }

#endif
