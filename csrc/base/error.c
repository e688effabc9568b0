#include "base.h"

#include <stdarg.h>
#include <stdio.h>

enum tx_status tx_fail(struct tx_error *err, enum tx_status status, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err->status = status;
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return status;
}

enum tx_status tx_fail_memory(struct tx_error *err, size_t bytes)
{
    return tx_fail(err, TX_ENOMEM, "could not get %zu bytes of memory", bytes);
}
