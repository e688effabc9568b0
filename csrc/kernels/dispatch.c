/* Which kernels run: the reference table, with each row that this CPU can run laid over it. */
#include "kernels.h"

#include <stdio.h>
#include <string.h>

#include "../base/cpu.h"

/* The rows that the compiler knows, worst first, as setup.py lists them: TX_ROWS is ROW(ref) ROW(avx2) ... */
#define ROW(name) extern const struct tx_row txk_row_##name;
TX_ROWS
#undef ROW
const struct tx_row *const tx_rows[] = {
#define ROW(name) &txk_row_##name,
    TX_ROWS
#undef ROW
};
const int tx_num_rows = sizeof tx_rows / sizeof *tx_rows;

enum { MAX_ROWS = 16 };
_Static_assert(sizeof tx_rows / sizeof *tx_rows <= MAX_ROWS, "grow MAX_ROWS");

static void overlay(struct tx_kernels *t, const struct tx_kernels *s)
{
#define TAKE(slot) if (s->slot) t->slot = s->slot;
#define TAKE_WITH(slot, field) if (s->slot) t->field = s->field;
    TXK_SLOTS(TAKE, TAKE_WITH)
#undef TAKE
#undef TAKE_WITH
}

static int runs_here(int row)
{
    const uint32_t needs = tx_rows[row]->needs;
    return (tx_cpu_bits() & needs) == needs && (!(needs & TX_CPU_AMX) || tx_cpu_ask_for_tiles());
}

const struct tx_kernels *tx_kernels_row(int row)
{
    /* Filled with the same bytes by whoever comes first; a second writer writes what is there already. */
    static struct tx_kernels tables[MAX_ROWS];
    struct tx_kernels t = *tx_rows[0]->slots;
    for (int i = 1; i <= row; i++)
        if (runs_here(i))
            overlay(&t, tx_rows[i]->slots);
    if (memcmp(&tables[row], &t, sizeof t) != 0)
        tables[row] = t;
    return &tables[row];
}

const char *tx_slot_row(int row, const char *slot)
{
    const char *from = NULL;
    for (int i = 0; i <= row; i++) {
        if (!runs_here(i))
            continue;
        const struct tx_kernels *s = tx_rows[i]->slots;
#define NAME(field) if (strcmp(slot, #field) == 0 && s->field) from = tx_rows[i]->name;
        TXK_SLOTS(NAME, TXK_NOT_WITH)
#undef NAME
    }
    return from;
}

tx_peak_loop *tx_row_peak(int row, enum tx_dtype dtype)
{
    tx_peak_loop *loop = NULL;
    for (int i = 0; i <= row; i++)
        if (runs_here(i) && tx_rows[i]->peak[dtype])
            loop = tx_rows[i]->peak[dtype];
    return loop;
}

int tx_choose_row(const char *isa, char *err, size_t err_size)
{
    if (!isa || !*isa) {
        int best = 0;
        for (int i = 1; i < tx_num_rows; i++)
            if (runs_here(i))
                best = i;
        return best;
    }
    for (int i = 0; i < tx_num_rows; i++) {
        if (strcmp(isa, tx_rows[i]->name) != 0)
            continue;
        if (runs_here(i))
            return i;
        snprintf(err, err_size, "TEXTOK_ISA=%s: this CPU or its operating system cannot run it", isa);
        return -1;
    }
    int n = snprintf(err, err_size, "TEXTOK_ISA=%.40s is not known; choose from:", isa);
    for (int i = 0; i < tx_num_rows && n > 0 && (size_t)n < err_size; i++)
        n += snprintf(err + n, err_size - (size_t)n, " %s", tx_rows[i]->name);
    return -1;
}
