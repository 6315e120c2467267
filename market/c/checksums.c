/* What venues compute the checksums of their books over: the digits or texts of the best levels, written from a book. */

#include "compiled.h"

enum { MOST_LEVELS = 100, NUMBER_BYTES = 2 * MAX_SCALE + 4 };

/* A number above zero, or zero; two digits at a time. */
static char *write_digits(char *to, uint64_t number)
{
    static const char pairs[] = "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748"
                                "49505152535455565758596061626364656667686970717273747576777879808182838485868788899091929394959697"
                                "9899";
    char digits[20], *at = digits + sizeof digits;
    while (number >= 100) {
        at -= 2;
        memcpy(at, pairs + 2 * (number % 100), 2);
        number /= 100;
    }
    if (number >= 10) {
        at -= 2;
        memcpy(at, pairs + 2 * number, 2);
    } else {
        *--at = (char)('0' + number);
    }
    size_t count = (size_t)(digits + sizeof digits - at);
    memcpy(to, at, count);
    return to + count;
}

/* Without needless zeros: 847700 at scale 2 is 8477. */
static char *write_shortest(char *to, int64_t value, int scale)
{
    uint64_t unit = (uint64_t)POWERS[scale], rest = (uint64_t)value % unit;
    to = write_digits(to, (uint64_t)value / unit);
    if (!rest)
        return to;
    *to++ = '.';
    for (unit /= 10; rest; unit /= 10) {
        *to++ = (char)('0' + rest / unit);
        rest %= unit;
    }
    return to;
}

/* 1, 0 where so many places are not written here, or -1 with an exception. */
static int arguments_of(PyObject *const *args, Py_ssize_t count, long least, long *depth, long *price, long *size)
{
    if (count != 4 || !Py_IS_TYPE(args[0], &BookType)) {
        PyErr_SetString(PyExc_TypeError, "a book and three integers are wanted");
        return -1;
    }
    *depth = PyLong_AsLong(args[1]);
    *price = PyLong_AsLong(args[2]);
    *size = PyLong_AsLong(args[3]);
    if (PyErr_Occurred())
        return -1;
    if (*depth < 0 || *depth > MOST_LEVELS) {
        PyErr_Format(PyExc_ValueError, "0 to %d levels are written", MOST_LEVELS);
        return -1;
    }
    return *price >= least && *price <= MAX_SCALE && *size >= least && *size <= MAX_SCALE;
}

static Py_ssize_t levels_of(const Side *side, long depth) { return side->count < depth ? side->count : depth; }

/* Of a value that the venue writes with so many more places; 0 where it does not fit into 64 bits. */
static int write_at(char **to, int64_t value, long more)
{
    int64_t written = value;
    if (value < 0 || (more > 0 && __builtin_mul_overflow(value, POWERS[more], &written)))
        return 0;
    *to = write_digits(*to, (uint64_t)(more < 0 ? value / POWERS[-more] : written));
    return 1;
}

static int write_side(char **to, const Side *side, int64_t sign, long depth, long price_more, long size_more)
{
    Py_ssize_t levels = levels_of(side, depth);
    for (Py_ssize_t at = side->count - 1; at >= side->count - levels; at--) {
        if (!write_at(to, sign * side->keys[at], price_more) || !write_at(to, side->sizes[at], size_more))
            return 0;
    }
    return 1;
}

/* digits_of_best(book, depth, more price places, more size places): the asks from the lowest, then the bids from the
highest, of each level price and size as integers. None where one does not fit into 64 bits. */
PyObject *digits_of_best(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    char text[2 * MOST_LEVELS * 2 * 20], *at = text;
    long depth, price_more, size_more;
    (void)module;
    int fits = arguments_of(args, count, -MAX_SCALE, &depth, &price_more, &size_more);
    if (fits <= 0)
        return fits ? NULL : Py_NewRef(Py_None);
    const BookObject *book = (const BookObject *)args[0];
    if (!write_side(&at, &book->asks, -1, depth, price_more, size_more) ||
        !write_side(&at, &book->bids, 1, depth, price_more, size_more))
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize(text, at - text);
}

static char *write_level(char *to, char *begin, int64_t price, int64_t size, long price_scale, long size_scale)
{
    if (to != begin)
        *to++ = ':';
    to = write_shortest(to, price, (int)price_scale);
    *to++ = ':';
    return write_shortest(to, size, (int)size_scale);
}

/* texts_of_best(book, depth, price scale, size scale): "bid price:bid size:ask price:ask size:…", the best first, in
turns while both sides last. None where a number is below zero. */
PyObject *texts_of_best(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    char text[2 * MOST_LEVELS * 2 * NUMBER_BYTES], *at = text;
    long depth, price_scale, size_scale;
    (void)module;
    int fits = arguments_of(args, count, 0, &depth, &price_scale, &size_scale);
    if (fits <= 0)
        return fits ? NULL : Py_NewRef(Py_None);
    const BookObject *book = (const BookObject *)args[0];
    const Side *sides[] = {&book->bids, &book->asks};
    for (long level = 0; level < depth; level++) {
        for (int i = 0; i < 2; i++) {
            Py_ssize_t place = sides[i]->count - 1 - level;
            if (place < 0)
                continue;
            int64_t price = i ? -sides[i]->keys[place] : sides[i]->keys[place], size = sides[i]->sizes[place];
            if (price < 0 || size < 0)
                Py_RETURN_NONE;
            at = write_level(at, text, price, size, price_scale, size_scale);
        }
    }
    return PyBytes_FromStringAndSize(text, at - text);
}
