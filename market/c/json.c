/* What of JSON is passed over, since nobody wants it: it must be JSON all the same. */

#include "json.h"

enum { MOST_DEPTH = 16 };

static int pass_number(Text *text)
{
    text->at += *text->at == '-';
    const char *begin = text->at;
    while (is_digit(text))
        text->at++;
    Py_ssize_t digits = text->at - begin;
    if (digits == 0 || (digits > 1 && *begin == '0'))
        return 0;
    if (text->at < text->end && *text->at == '.') {
        begin = ++text->at;
        while (is_digit(text))
            text->at++;
        if (text->at == begin)
            return 0;
        digits += text->at - begin;
    }
    return digits <= MAX_SCALE; /* of more, Python may say that it is out of range */
}

static int pass_literal(Text *text)
{
    static const char *const literals[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++) {
        size_t length = strlen(literals[i]);
        if ((size_t)(text->end - text->at) >= length && memcmp(text->at, literals[i], length) == 0) {
            text->at += length;
            return 1;
        }
    }
    return 0;
}

static int pass_at(Text *text, int depth);

/* The elements of an array or the fields of an object, up to its end. */
static int pass_parts(Text *text, char end, int depth)
{
    Word name;
    if (depth == MOST_DEPTH)
        return 0;
    if (take(text, end))
        return 1;
    do {
        if (end == '}' && (!take_word(text, &name) || !take(text, ':')))
            return 0;
        if (!pass_at(text, depth + 1))
            return 0;
    } while (take(text, ','));
    return take(text, end);
}

static int pass_at(Text *text, int depth)
{
    Word word;
    skip_blanks(text);
    if (text->at == text->end)
        return 0;
    switch (*text->at) {
    case '"':
        return take_word(text, &word);
    case '[':
        text->at++;
        return pass_parts(text, ']', depth);
    case '{':
        text->at++;
        return pass_parts(text, '}', depth);
    case 't':
    case 'f':
    case 'n':
        return pass_literal(text);
    default:
        return pass_number(text);
    }
}

int pass_value(Text *text) { return pass_at(text, 0); }
