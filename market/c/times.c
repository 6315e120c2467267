/* Times as venues write them: `2021-04-17T16:43:37.093357Z`, in ns. */

#include "compiled.h"

enum { FIRST_YEAR = 1970, LAST_YEAR = 2261 };

/* So many digits, or -1. */
static long digits_at(const char *text, int count)
{
    long number = 0;
    for (int i = 0; i < count; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        number = 10 * number + (text[i] - '0');
    }
    return number;
}

static int is_leap(long year) { return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0); }

/* Days since 1970; -1 where there is no such day. */
static long days_of(long year, long month, long day)
{
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    if (year < FIRST_YEAR || year > LAST_YEAR || month < 1 || month > 12 || day < 1)
        return -1;
    if (day > lengths[month - 1] + (month == 2 && is_leap(year)))
        return -1;
    long past = year - 1; /* the years that are over */
    long leaps = past / 4 - past / 100 + past / 400 - (1969 / 4 - 1969 / 100 + 1969 / 400);
    return 365 * (year - FIRST_YEAR) + leaps + before[month - 1] + (month > 2 && is_leap(year)) + day - 1;
}

int moment_of(const char *at, Py_ssize_t length, int64_t *ns)
{
    Py_ssize_t places = length - 21;
    if (places < 1 || places > 9 || at[4] != '-' || at[7] != '-' || at[10] != 'T' || at[13] != ':' || at[16] != ':' ||
        at[19] != '.' || at[20 + places] != 'Z')
        return 0;
    long days = days_of(digits_at(at, 4), digits_at(at + 5, 2), digits_at(at + 8, 2));
    long hour = digits_at(at + 11, 2), minute = digits_at(at + 14, 2), second = digits_at(at + 17, 2);
    long fraction = digits_at(at + 20, (int)places);
    if (days < 0 || hour < 0 || hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 59 || fraction < 0)
        return 0;
    int64_t seconds = ((days * 24LL + hour) * 60 + minute) * 60 + second;
    *ns = seconds * POWERS[9] + fraction * POWERS[9 - places];
    return 1;
}

/* moment_ns(text): None where it is not written just so, with one to nine decimals; Python reads that. */
PyObject *moment_ns(PyObject *module, PyObject *text)
{
    int64_t ns;
    (void)module;
    if (!PyUnicode_Check(text) || !PyUnicode_IS_ASCII(text) ||
        !moment_of(PyUnicode_DATA(text), PyUnicode_GET_LENGTH(text), &ns))
        Py_RETURN_NONE;
    return PyLong_FromLongLong(ns);
}
