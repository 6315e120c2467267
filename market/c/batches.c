/* A column of a compressed batch of TimescaleDB; market/batches.py says how it is told, and does the same. */

#include "compiled.h"

enum { HEAD_BYTES = 26, DELTA_DELTA = 4, RUN = 15, RUN_BITS = 36, MOST_IN_A_WORD = 64 };

static const uint8_t NUMBERS[] = {0, 64, 32, 21, 16, 12, 10, 9, 8, 6, 5, 4, 3, 2, 1, 0};
static const uint8_t BITS[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 21, 32, 64, RUN_BITS};

static uint64_t big_endian(const unsigned char *at, int bytes)
{
    uint64_t number = 0;
    for (int i = 0; i < bytes; i++)
        number = number << 8 | at[i];
    return number;
}

/* 0 where it is not told as is known here, and does not end as it says. */
static int read_column(const unsigned char *told, uint64_t size, uint64_t rows, int64_t *values)
{
    if (size < HEAD_BYTES || told[0] != DELTA_DELTA || told[1] != 0)
        return 0;
    uint64_t words = big_endian(told + 22, 4), holders = (words + 15) / 16;
    if (big_endian(told + 18, 4) != rows || size != HEAD_BYTES + 8 * (words + holders))
        return 0;
    const unsigned char *holder = told + HEAD_BYTES, *at = holder + 8 * holders;
    uint64_t value = 0, delta = 0, done = 0, selectors = 0;
    for (uint64_t number = 0; number < words; number++, at += 8, selectors >>= 4) {
        if (number % 16 == 0) {
            selectors = big_endian(holder, 8);
            holder += 8;
        }
        unsigned selector = selectors & 15, bits = BITS[selector];
        uint64_t word = big_endian(at, 8), mask = UINT64_MAX >> (bits ? 64 - bits : 63);
        uint64_t numbers = selector == RUN ? word >> RUN_BITS : NUMBERS[selector], left = rows - done;
        if (numbers == 0 || left == 0)
            return 0;
        if (numbers > left) { /* only the last word has room for more than there are */
            if (number + 1 != words || numbers - left >= MOST_IN_A_WORD)
                return 0;
            numbers = left;
        }
        unsigned step = selector == RUN || bits == 64 ? 0 : bits; /* a run says the same again */
        for (uint64_t i = 0; i < numbers; i++, word >>= step) {
            uint64_t zigzag = word & mask;
            delta += (zigzag >> 1) ^ (0 - (zigzag & 1));
            value += delta;
            values[done++] = (int64_t)value;
        }
    }
    return done == rows && value == big_endian(told + 2, 8) && delta == big_endian(told + 10, 8);
}

/* batch_column(told, rows, values, at): whether so many values were put into an array of int64, from place `at` on. */
PyObject *batch_column(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "batch_column(told, rows, values, at)");
        return NULL;
    }
    Py_ssize_t rows = PyLong_AsSsize_t(args[1]), at = PyLong_AsSsize_t(args[3]);
    if (PyErr_Occurred())
        return NULL;
    Py_buffer told, values;
    if (PyObject_GetBuffer(args[0], &told, PyBUF_SIMPLE) < 0)
        return NULL;
    if (PyObject_GetBuffer(args[2], &values, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) < 0) {
        PyBuffer_Release(&told);
        return NULL;
    }
    int fits = values.itemsize == sizeof(int64_t) && at >= 0 && rows >= 0 && at <= values.len / values.itemsize &&
               rows <= values.len / values.itemsize - at;
    int read = fits && read_column(told.buf, (uint64_t)told.len, (uint64_t)rows, (int64_t *)values.buf + at);
    PyBuffer_Release(&values);
    PyBuffer_Release(&told);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "values have no room for so many rows there");
        return NULL;
    }
    return PyBool_FromLong(read);
}
