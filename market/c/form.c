/* Forms are made of what daemon/feeds/forms.py writes: dicts are objects, tuples arrays, a list of one form an array of
any number of these, and `Slot`s the leaves. What they are for is in form.h. */

#include "form.h"

enum { SLOT_FIELDS = 7, MOST_WORDS = 32 };

static int node_make(Form *form, Node *node, PyObject *written, int depth);

static int refused(const char *why)
{
    PyErr_Format(PyExc_ValueError, "no form of a message: %s", why);
    return -1;
}

/* A word that lives as long as the form. */
static int keep_word(Form *form, Word *word, PyObject *object)
{
    if (PyBytes_Check(object)) {
        *word = (Word){PyBytes_AS_STRING(object), PyBytes_GET_SIZE(object)};
    } else if (PyUnicode_Check(object)) {
        word->begin = PyUnicode_AsUTF8AndSize(object, &word->length);
        if (word->begin == NULL)
            return -1;
    } else {
        return refused("names are str, words are bytes");
    }
    return PyList_Append(form->kept, object);
}

static int words_make(Form *form, Slot *slot, PyObject *words)
{
    if (!PyTuple_Check(words) || PyTuple_GET_SIZE(words) > MOST_WORDS)
        return refused("words are a tuple of a few");
    slot->words_count = (int)PyTuple_GET_SIZE(words);
    slot->words = PyMem_New(Word, slot->words_count ? slot->words_count : 1);
    if (slot->words == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (int i = 0; i < slot->words_count; i++) {
        if (keep_word(form, &slot->words[i], PyTuple_GET_ITEM(words, i)) < 0)
            return -1;
    }
    return 0;
}

/* How many words a kind has at least. */
static int words_wanted(enum Kind kind)
{
    switch (kind) {
    case WORD:
        return 1;
    case SIDED:
    case BID_OBJECTS:
    case ASK_OBJECTS:
        return 2;
    case OBJECTS:
        return 5;
    default:
        return 0;
    }
}

static int slot_check(Form *form, Slot *slot)
{
    if (slot->words_count < words_wanted(slot->kind))
        return refused("words are missing");
    if (slot->kind >= PRICE && slot->kind <= SIZE && (slot->number < TEXTS || slot->number > REALS))
        return refused("no way of writing numbers");
    if ((slot->kind == BIDS || slot->kind == ASKS) && (slot->number < 0 || slot->number > MORE_TEXTS))
        return refused("too many texts behind a level");
    if (slot->kind >= COUNT && slot->kind <= LOOSE && slot->number < 1)
        return refused("a count is multiplied with 1 at least");
    if (slot->kind >= OBJECTS) {
        if (slot->number < TEXTS || slot->number > REALS)
            return refused("no way of writing numbers");
        const Word none = {"", 0}, *words = slot->words;
        int has_sides = slot->kind == OBJECTS;
        slot->names = (Names){words[0], words[1], has_sides ? words[2] : none, has_sides ? words[3] : none,
                              has_sides ? words[4] : none, (enum Writing)slot->number, slot->separator == 0};
    }
    form->has_levels = form->has_levels || slot->kind >= BIDS;
    form->has_dates = form->has_dates || slot->kind == DATED_BIDS || slot->kind == DATED_ASKS;
    return 0;
}

static int leaf_make(Form *form, Node *node, PyObject *written)
{
    long long kind, number, separator, most, role;
    PyObject *fallback, *words;
    if (PyTuple_GET_SIZE(written) != SLOT_FIELDS || form->count == MOST_SLOTS)
        return refused("a slot has seven fields, and there are not too many slots");
    if (!PyArg_ParseTuple(written, "LOOLLLL", &kind, &fallback, &words, &number, &separator, &most, &role))
        return -1;
    if (kind < 0 || kind >= KINDS || separator < 0 || separator > 127 || role < 0 || role > 127)
        return refused("no such kind, separator or role");
    node->first = form->count++;
    node->end = form->count;
    Slot *slot = &form->slots[node->first];
    *slot = (Slot){.kind = (enum Kind)kind, .role = (int)role, .number = number, .most = most, .separator = (char)separator};
    if (fallback != Py_Ellipsis)
        slot->fallback = Py_NewRef(fallback);
    if (PyLong_Check(fallback)) {
        slot->absent = PyLong_AsLongLong(fallback);
        if (slot->absent == -1 && PyErr_Occurred())
            return -1;
    }
    return words_make(form, slot, words) < 0 ? -1 : slot_check(form, slot);
}

static int children_make(Form *form, Node *node, PyObject *fields, PyObject *forms, int depth)
{
    Py_ssize_t count = PySequence_Fast_GET_SIZE(forms);
    if (count < 1 || count > MOST_SLOTS)
        return refused("a part without parts, or with too many");
    node->children = PyMem_Calloc((size_t)count, sizeof(Node));
    node->names = fields == NULL ? NULL : PyMem_New(Word, count);
    if (node->children == NULL || (fields != NULL && node->names == NULL)) {
        PyErr_NoMemory();
        return -1;
    }
    node->first = form->count;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (fields != NULL && keep_word(form, &node->names[i], PyList_GET_ITEM(fields, i)) < 0)
            return -1;
        node->count++;
        if (node_make(form, &node->children[i], PySequence_Fast_GET_ITEM(forms, i), depth) < 0)
            return -1;
        if (node->children[i].shape != LEAF)
            node->parts |= (uint64_t)1 << i;
    }
    node->end = form->count;
    return 0;
}

static int object_make(Form *form, Node *node, PyObject *written, int depth)
{
    PyObject *fields = PyDict_Keys(written), *forms = PyDict_Values(written);
    int failed = fields == NULL || forms == NULL ? -1 : children_make(form, node, fields, forms, depth);
    Py_XDECREF(fields);
    Py_XDECREF(forms);
    return failed;
}

static int node_make(Form *form, Node *node, PyObject *written, int depth)
{
    if (depth == MOST_FORM_DEPTH)
        return refused("too deep");
    if (PyDict_Check(written)) {
        node->shape = OBJECT;
        return object_make(form, node, written, depth + 1);
    }
    if (PyList_CheckExact(written) && PyList_GET_SIZE(written) == 1) {
        int before = ++form->repeated;
        node->shape = REPEATED;
        int failed = children_make(form, node, NULL, written, depth + 1);
        node->is_innermost = form->repeated == before;
        return failed;
    }
    if (PyTuple_CheckExact(written)) {
        node->shape = ARRAY;
        return children_make(form, node, NULL, written, depth + 1);
    }
    node->shape = LEAF;
    return PyTuple_Check(written) ? leaf_make(form, node, written) : refused("neither dict, list, tuple nor slot");
}

int form_make(Form *form, PyObject *written)
{
    memset(form, 0, sizeof *form);
    form->kept = PyList_New(0);
    return form->kept == NULL || node_make(form, &form->root, written, 0) < 0 ? -1 : 0;
}

static void node_free(Node *node)
{
    for (int i = 0; i < node->count; i++)
        node_free(&node->children[i]);
    PyMem_Free(node->children);
    PyMem_Free(node->names);
}

void form_free(Form *form)
{
    node_free(&form->root);
    for (int i = 0; i < form->count; i++) {
        PyMem_Free(form->slots[i].words);
        Py_CLEAR(form->slots[i].fallback);
    }
    Py_CLEAR(form->kept);
}
