/* One side of a book: keys and sizes in two arrays, the best at their end, where levels come and go. */

#include "compiled.h"
#include <stdlib.h>

void side_free(Side *side)
{
    PyMem_Free(side->keys);
    PyMem_Free(side->sizes);
    *side = (Side){0, 0, NULL, NULL};
}

int side_reserve(Side *side, Py_ssize_t more)
{
    if (more <= side->room - side->count)
        return 0;
    if (more > PY_SSIZE_T_MAX / 32 - side->count) {
        PyErr_NoMemory();
        return -1;
    }
    Py_ssize_t room = side->count + more;
    if (room < 2 * side->room)
        room = 2 * side->room;
    int64_t *keys = PyMem_Realloc(side->keys, (size_t)room * sizeof(int64_t));
    if (keys != NULL)
        side->keys = keys;
    int64_t *sizes = keys == NULL ? NULL : PyMem_Realloc(side->sizes, (size_t)room * sizeof(int64_t));
    if (sizes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    side->sizes = sizes;
    side->room = room;
    return 0;
}

/* From the best end in growing steps, then by halves: most of what is looked for lies near the best. */
Py_ssize_t side_below(const Side *side, int64_t key)
{
    const int64_t *keys = side->keys;
    Py_ssize_t high = side->count, low = side->count - 1, step = 1;
    while (low >= 0 && keys[low] >= key) {
        high = low;
        low -= step;
        step *= 2;
    }
    low = low < 0 ? 0 : low + 1;
    while (low < high) {
        Py_ssize_t middle = low + (high - low) / 2;
        if (keys[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

int64_t side_set(Side *side, int64_t key, int64_t size)
{
    Py_ssize_t at = side_below(side, key);
    int64_t *keys = side->keys + at, *sizes = side->sizes + at;
    size_t behind = (size_t)(side->count - at) * sizeof(int64_t);
    if (behind && *keys == key) {
        int64_t before = *sizes;
        if (size) {
            *sizes = size;
        } else {
            memmove(keys, keys + 1, behind - sizeof(int64_t));
            memmove(sizes, sizes + 1, behind - sizeof(int64_t));
            side->count--;
        }
        return before;
    }
    if (size) {
        if (behind) {
            memmove(keys + 1, keys, behind);
            memmove(sizes + 1, sizes, behind);
        }
        *keys = key;
        *sizes = size;
        side->count++;
    }
    return 0;
}

typedef struct {
    int64_t key, size;
    Py_ssize_t row;
} Row;

/* By key, and of one key in the order of their rows. */
static int row_order(const void *one, const void *other)
{
    const Row *a = one, *b = other;
    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* Whether the keys ascend (1) or descend (-1) throughout, as venues write them; 0: neither. */
static int direction(const View *prices, int64_t sign)
{
    int up = 1, down = 1;
    for (Py_ssize_t i = 1; i < prices->count && (up || down); i++) {
        int64_t was = sign * prices->values[i - 1], now = sign * prices->values[i];
        up = up && was < now;
        down = down && was > now;
    }
    return up ? 1 : down ? -1 : 0;
}

static void take(Side *side, int64_t key, int64_t size)
{
    if (size) {
        side->keys[side->count] = key;
        side->sizes[side->count++] = size;
    }
}

int side_reset(Side *side, const View *prices, const View *sizes, int64_t sign)
{
    Side made = {0, 0, NULL, NULL};
    Py_ssize_t count = prices->count;
    int way = direction(prices, sign);
    Row *rows = way ? NULL : PyMem_New(Row, count);
    if ((!way && rows == NULL) || side_reserve(&made, count) < 0) {
        PyMem_Free(rows);
        side_free(&made);
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        return -1;
    }
    if (way) {
        for (Py_ssize_t i = 0; i < count; i++) {
            Py_ssize_t row = way > 0 ? i : count - 1 - i;
            take(&made, sign * prices->values[row], sizes->values[row]);
        }
    } else {
        for (Py_ssize_t i = 0; i < count; i++)
            rows[i] = (Row){sign * prices->values[i], sizes->values[i], i};
        qsort(rows, (size_t)count, sizeof *rows, row_order);
        for (Py_ssize_t i = 0; i < count; i++) {
            if (i + 1 == count || rows[i + 1].key != rows[i].key)
                take(&made, rows[i].key, rows[i].size);
        }
        PyMem_Free(rows);
    }
    side_free(side);
    *side = made;
    return 0;
}

int side_copy(Side *made, const Side *side)
{
    if (side_reserve(made, side->count) < 0)
        return -1;
    if (side->count) {
        memcpy(made->keys, side->keys, (size_t)side->count * sizeof(int64_t));
        memcpy(made->sizes, side->sizes, (size_t)side->count * sizeof(int64_t));
    }
    made->count = side->count;
    return 0;
}

void side_drop(Side *side, Py_ssize_t count)
{
    side->count -= count;
    if (side->count) {
        memmove(side->keys, side->keys + count, (size_t)side->count * sizeof(int64_t));
        memmove(side->sizes, side->sizes + count, (size_t)side->count * sizeof(int64_t));
    }
}

PyObject *side_sum(const Side *side, int64_t low, int64_t high)
{
    PyObject *sum = NULL;
    int64_t part = 0;
    for (Py_ssize_t i = low <= high ? side_below(side, low) : side->count; i < side->count && side->keys[i] <= high; i++) {
        int64_t more;
        if (!__builtin_add_overflow(part, side->sizes[i], &more)) {
            part = more;
            continue;
        }
        PyObject *number = PyLong_FromLongLong(part), *added = NULL;
        if (number != NULL)
            added = sum == NULL ? Py_NewRef(number) : PyNumber_Add(sum, number);
        Py_XDECREF(number);
        Py_XSETREF(sum, added);
        if (sum == NULL)
            return NULL;
        part = side->sizes[i];
    }
    PyObject *rest = PyLong_FromLongLong(part);
    if (rest == NULL) {
        Py_XDECREF(sum);
        return NULL;
    }
    if (sum == NULL)
        return rest;
    PyObject *whole = PyNumber_Add(sum, rest);
    Py_DECREF(sum);
    Py_DECREF(rest);
    return whole;
}
