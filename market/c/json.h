/* What of JSON the readers take: arrays and objects of plain texts and numbers. Whatever else comes is for Python. */

#ifndef MARKETD_JSON_H
#define MARKETD_JSON_H

#include "compiled.h"

typedef struct {
    const char *at, *end;
    Py_ssize_t places; /* decimal places of the last decimal, as it is written */
} Text;

typedef struct {
    const char *begin;
    Py_ssize_t length;
} Word;

static inline void skip_blanks(Text *text)
{
    while (text->at < text->end && (*text->at == ' ' || *text->at == '\t' || *text->at == '\n' || *text->at == '\r'))
        text->at++;
}

/* Whether this comes next; then it is behind us. */
static inline int take(Text *text, char wanted)
{
    if (text->at < text->end && *text->at == wanted) {
        text->at++;
        return 1;
    }
    skip_blanks(text);
    if (text->at < text->end && *text->at == wanted) {
        text->at++;
        return 1;
    }
    return 0;
}

static inline int is_next(Text *text, char wanted)
{
    skip_blanks(text);
    return text->at < text->end && *text->at == wanted;
}

/* A text of printable ASCII without escapes. */
static inline int take_word(Text *text, Word *word)
{
    if (!take(text, '"'))
        return 0;
    word->begin = text->at;
    while (text->at < text->end && *text->at >= ' ' && *text->at < 127 && *text->at != '"' && *text->at != '\\')
        text->at++;
    word->length = text->at - word->begin;
    if (text->at == text->end || *text->at != '"')
        return 0;
    text->at++;
    return 1;
}

/* Whatever stands here, if it is JSON without escapes and exponents, and not too deep. */
int pass_value(Text *text);

static inline int is_word(const Word *word, const Word *wanted)
{
    return word->length == wanted->length && memcmp(word->begin, wanted->begin, (size_t)wanted->length) == 0;
}

enum Writing {
    TEXTS,   /* "12.50" */
    NUMBERS, /* 12.50, of which each digit counts */
    REALS    /* 12.5 or "12.50"; a number stands for a double, and is taken while so few digits are one */
};

enum { REAL_DIGITS = 15 };

static inline int is_digit(const Text *text) { return text->at < text->end && *text->at >= '0' && *text->at <= '9'; }

/* digits[.digits] at a scale, exactly; 0 where it is anything else, or does not fit. */
static inline int take_digits(Text *text, int scale, int is_number, int most_digits, int64_t *value)
{
    const char *begin = text->at;
    uint64_t whole = 0, fraction = 0;
    while (is_digit(text))
        whole = 10 * whole + (uint64_t)(*text->at++ - '0');
    Py_ssize_t digits = text->at - begin, places = 0;
    text->places = 0;
    if (digits == 0 || digits > 18 || (is_number && digits > 1 && *begin == '0'))
        return 0;
    if (text->at < text->end && *text->at == '.') {
        begin = ++text->at;
        while (is_digit(text) && places < scale) {
            fraction = 10 * fraction + (uint64_t)(*text->at++ - '0');
            places++;
        }
        while (text->at < text->end && *text->at == '0')
            text->at++;
        text->places = text->at - begin;
        digits += text->places;
        if (is_digit(text) || (is_number && text->places == 0))
            return 0;
    }
    if (digits > most_digits)
        return 0;
    int64_t at_scale, rest = (int64_t)fraction * POWERS[scale - places];
    return !__builtin_mul_overflow((int64_t)whole, POWERS[scale], &at_scale) &&
           !__builtin_add_overflow(at_scale, rest, value);
}

/* A price or size as it is written. */
static inline int take_decimal(Text *text, int scale, enum Writing writing, int64_t *value)
{
    if (text->at < text->end && *text->at != '"')
        skip_blanks(text);
    if (text->at < text->end && *text->at == '"') {
        text->at++;
        if (writing == NUMBERS || !take_digits(text, scale, 0, 64, value) || text->at == text->end || *text->at != '"')
            return 0;
        text->at++;
        return 1;
    }
    if (writing == TEXTS)
        return 0;
    if (!take_digits(text, scale, 1, writing == REALS ? REAL_DIGITS : 64, value) || text->at == text->end)
        return 0;
    /* the end of a number: an exponent, or whatever else sticks to it, is for Python */
    return *text->at == ',' || *text->at == '}' || *text->at == ']' || *text->at == ' ';
}

#endif
