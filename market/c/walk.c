/* The walk through a message beside its form; form.h tells what it takes. */

#include "form.h"

/* ---- what is taken ---- */

/* Levels that are read later, up to where their array seems to end; a bracket in a text is found out when they are
read. */
static int pass_levels(Text *text)
{
    int depth = 0;
    if (!is_next(text, '['))
        return 0;
    do {
        if (text->at == text->end)
            return 0;
        depth += (*text->at == '[') - (*text->at == ']');
        text->at++;
    } while (depth);
    return 1;
}

/* An integer of at most 18 digits, without needless zeros. */
static int take_integer(Text *text, int64_t *value)
{
    const char *begin = text->at;
    *value = 0;
    while (is_digit(text) && text->at - begin < MAX_SCALE)
        *value = 10 * *value + (*text->at++ - '0');
    Py_ssize_t digits = text->at - begin;
    return digits > 0 && (digits == 1 || *begin != '0');
}

/* The end of a JSON number. */
static int is_over(const Text *text)
{
    return text->at < text->end && (*text->at == ',' || *text->at == '}' || *text->at == ']' || *text->at == ' ');
}

static int take_count(Text *text, const Slot *slot, int64_t *value)
{
    int64_t unit = slot->number;
    skip_blanks(text);
    if (slot->kind != COUNT && slot->kind != CLOCK && text->at < text->end && *text->at == '"') {
        text->at++;
        if (!take_integer(text, value) || text->at == text->end || *text->at++ != '"')
            return 0;
    } else if (slot->kind == DIGITS || !take_integer(text, value) || !is_over(text)) {
        return 0;
    }
    if (slot->kind == CLOCK)
        unit = *value > INT64_MAX / 1000000 ? 1000 : 1000000; /* what does not fit as ms is µs */
    return !__builtin_mul_overflow(*value, unit, value) && *value <= slot->most;
}

/* A text or another value, as it is written. */
static int take_written(Text *text, Word *word)
{
    skip_blanks(text);
    word->begin = text->at;
    if (!pass_value(text))
        return 0;
    word->length = text->at - word->begin;
    return 1;
}

static int take_choice(Text *text, const Slot *slot, int64_t *value)
{
    Word written;
    if (!take_written(text, &written))
        return 0;
    if (slot->separator) {
        const char *at = memchr(written.begin, slot->separator, (size_t)written.length);
        if (at == NULL)
            return 0;
        written = (Word){at + 1, written.begin + written.length - at - 1};
    }
    for (*value = 0; *value < slot->words_count; ++*value) {
        if (is_word(&written, &slot->words[*value]))
            return 1;
    }
    return 0;
}

/* The reader of a key; in one message there is one. */
static int take_key(Walk *walk, Text *text)
{
    Word word;
    if (!take_word(text, &word))
        return 0;
    PyObject *key = PyUnicode_FromStringAndSize(word.begin, word.length);
    PyObject *reader = key == NULL ? NULL : PyDict_GetItemWithError(walk->readers, key);
    Py_XDECREF(key);
    if (reader == NULL)
        return PyErr_Occurred() ? -1 : 0;
    if (!Py_IS_TYPE(reader, &ReaderType)) {
        PyErr_SetString(PyExc_TypeError, "what a key names is a Reader");
        return -1;
    }
    if (walk->reader == NULL)
        walk->reader = (ReaderObject *)Py_NewRef(reader);
    return walk->reader == (ReaderObject *)reader;
}

/* Levels of several fields come one behind the other, in the order of the message. */
static int take_levels(Walk *walk, int index, Text *text)
{
    const Slot *slot = &walk->form->slots[index];
    const ReaderObject *reader = walk->reader;
    Rows *bids = walk->bids, *asks = walk->asks;
    if (index < walk->last_levels && (slot->kind == SIDED || slot->kind == OBJECTS))
        return 0; /* of a price that comes twice the later one holds, and later is what the form has later */
    walk->last_levels = index;
    switch (slot->kind) {
    case BIDS:
        return take_text_rows(reader, text, (int)slot->number, bids);
    case ASKS:
        return take_text_rows(reader, text, (int)slot->number, asks);
    case DATED_BIDS:
        return take_dated_rows(reader, text, bids, walk->told);
    case DATED_ASKS:
        return take_dated_rows(reader, text, asks, walk->told);
    case SIDED:
        return take_sided_rows(reader, text, &slot->words[0], &slot->words[1], bids, asks);
    case ASK_OBJECTS:
        return take_objects(reader, text, &slot->names, asks, asks);
    default:
        return take_objects(reader, text, &slot->names, bids, asks);
    }
}

/* Prices, sizes and levels can be read once it is known at which scales. */
static int take_scaled(Walk *walk, int index, Text *text)
{
    const Slot *slot = &walk->form->slots[index];
    Found *found = &walk->found[index];
    found->standing = TAKEN;
    if (slot->kind >= BIDS)
        return take_levels(walk, index, text);
    int scale = slot->kind == PRICE ? walk->reader->price_scale : walk->reader->size_scale;
    return take_decimal(text, scale, (enum Writing)slot->number, &found->value);
}

static int take_leaf(Walk *walk, int index, Text *text)
{
    const Slot *slot = &walk->form->slots[index];
    Found *found = &walk->found[index];
    if (slot->kind >= PRICE && walk->reader != NULL)
        return take_scaled(walk, index, text);
    found->standing = slot->kind >= PRICE ? WAITING : TAKEN;
    switch (slot->kind) {
    case REFUSED:
        return 0;
    case WORD:
        return take_choice(text, slot, &found->value);
    case KEY:
        return take_key(walk, text);
    case ANYTHING:
        return pass_value(text);
    case TEXT:
    case ID:
        return take_word(text, &found->word);
    case MOMENT:
        return take_word(text, &found->word) && moment_of(found->word.begin, found->word.length, &found->value);
    case PRICE:
    case SIZE:
        return take_written(text, &found->word);
    default:
        if (slot->kind < BIDS)
            return take_count(text, slot, &found->value);
        found->word.begin = text->at;
        int passed = pass_levels(text);
        found->word.length = text->at - found->word.begin;
        return passed;
    }
}

int take_waiting(Walk *walk, int first, int end)
{
    for (int index = first; index < end; index++) {
        const Found *found = &walk->found[index];
        if (found->standing == MISSING && walk->form->slots[index].fallback == NULL)
            return 0;
        if (found->standing != WAITING)
            continue;
        Text text = {found->word.begin, walk->end, 0};
        if (walk->reader == NULL || !take_scaled(walk, index, &text) ||
            text.at != found->word.begin + found->word.length)
            return 0;
    }
    return 1;
}

int64_t value_of(const Walk *walk, int index)
{
    return walk->found[index].standing == MISSING ? walk->form->slots[index].absent : walk->found[index].value;
}

/* ---- the walk ---- */

static int take_node(Walk *walk, const Node *node, Text *text);

/* Which of an object's fields this is; -1: none that is wanted. They mostly come in one order: `after` is the last. */
static int field_of(const Node *node, const Word *name, int after)
{
    int index = after;
    for (int tried = 0; tried < node->count; tried++) {
        index = index + 1 >= node->count ? 0 : index + 1;
        if (is_word(name, &node->names[index]))
            return index;
    }
    return -1;
}

static int take_object_of(Walk *walk, const Node *node, Text *text)
{
    int field, last = -1;
    uint64_t came = 0; /* of fields that come twice Python takes the last, but not in the same way */
    Word name;
    if (!take(text, '{'))
        return 0;
    if (take(text, '}'))
        return node->parts == 0;
    do {
        if (!take_word(text, &name) || !take(text, ':'))
            return 0;
        field = field_of(node, &name, last);
        if (field >= 0 && (came & (uint64_t)1 << field))
            return 0;
        int taken = field < 0 ? pass_value(text) : take_node(walk, &node->children[field], text);
        if (taken <= 0)
            return taken;
        if (field >= 0) {
            came |= (uint64_t)1 << field;
            last = field;
        }
    } while (take(text, ','));
    return take(text, '}') && (node->parts & ~came) == 0;
}

static int take_array_of(Walk *walk, const Node *node, Text *text)
{
    if (!take(text, '['))
        return 0;
    for (int i = 0; i < node->count; i++) {
        if (i && !take(text, ','))
            return 0;
        int taken = take_node(walk, &node->children[i], text);
        if (taken <= 0)
            return taken;
    }
    return take(text, ']');
}

static int take_repeated(Walk *walk, const Node *node, Text *text)
{
    int taken, is_single = walk->on_row == NULL || !node->is_innermost;
    if (!take(text, '[') || is_next(text, ']'))
        return 0;
    do {
        taken = take_node(walk, &node->children[0], text);
        if (taken > 0 && !is_single)
            taken = walk->on_row(walk, node);
        if (taken <= 0)
            return taken;
    } while (!is_single && take(text, ','));
    return take(text, ']');
}

static int take_node(Walk *walk, const Node *node, Text *text)
{
    switch (node->shape) {
    case OBJECT:
        return take_object_of(walk, node, text);
    case ARRAY:
        return take_array_of(walk, node, text);
    case REPEATED:
        return take_repeated(walk, node, text);
    case LEAF:
        break;
    }
    skip_blanks(text);
    return take_leaf(walk, node->first, text);
}

void walk_begin(Walk *walk, const Form *form, PyObject *readers)
{
    walk->form = form;
    walk->readers = readers;
    walk->reader = NULL;
    walk->on_row = NULL;
    walk->bids = walk->asks = NULL;
    walk->last_levels = -1;
    walk->told[NEWEST] = INT64_MIN;
    walk->told[PRICE_PLACES] = walk->told[SIZE_PLACES] = 0;
    for (int i = 0; i < form->count; i++)
        walk->found[i] = (Found){.standing = MISSING};
}

int form_take(Walk *walk, const char *message, Py_ssize_t length)
{
    Text text = {message, message + length, 0};
    walk->end = text.end;
    int taken = take_node(walk, &walk->form->root, &text);
    if (taken <= 0)
        return taken;
    skip_blanks(&text);
    return text.at == text.end;
}

void walk_end(Walk *walk) { Py_CLEAR(walk->reader); }
