/* Reads a signed enclave (ELF with the metadata of Intel's SDK, version 1.5) and builds its memory as the CPU
 * would: the record's patches, the loadable segments, the layout table. The kernel's driver would do the same
 * with SGX_IOC_ENCLAVE_ADD_PAGES. Every offset of the file is checked against its size. */
#define _GNU_SOURCE
#include "host.h"

#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, NOTE_HEADER = 25, SIGSTRUCT = 64, DIRECTORIES = 0x750, ADD_PAGES = 1, GROUP = 0x1000 };
#define METADATA_MAGIC 0x86A80294635D0E4Cull
#define FLAGS_TCS 0x100

struct patch {
    uint64_t file_offset;
    uint32_t record_offset, size;
    uint64_t reserved[2];
};

struct layout_entry {
    uint16_t id, attributes; /* of a group: id, entry count */
    uint32_t pages;          /* load times */
    uint64_t address;        /* step */
    uint32_t content_size, content_offset;
    uint64_t flags;
};

static uint8_t *file;
static uint64_t file_size;

static void *part_of(uint8_t *start, uint64_t have, uint64_t offset, uint64_t size)
{
    if (offset > have || size > have - offset)
        fail("the enclave file is malformed: an offset leads out of it");
    return start + offset;
}

static void read_file(const char *path)
{
    FILE *stream = fopen(path, "rb");
    if (!stream)
        fail("cannot open the enclave file");
    if (fseek(stream, 0, SEEK_END) || (long)(file_size = (uint64_t)ftell(stream)) < (long)sizeof(Elf64_Ehdr))
        fail("the enclave file is too short");
    rewind(stream);
    file = malloc(file_size);
    if (!file || fread(file, 1, file_size, stream) != file_size)
        fail("cannot read the enclave file");
    fclose(stream);
}

static uint8_t *find_record(uint64_t *size)
{
    Elf64_Ehdr *header = (Elf64_Ehdr *)file;
    Elf64_Shdr *sections, *names;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_shstrndx >= header->e_shnum)
        fail("this is not an ELF file with sections");
    sections = part_of(file, file_size, header->e_shoff, header->e_shnum * sizeof *sections);
    names = &sections[header->e_shstrndx];
    for (int i = 0; i < header->e_shnum; i++) {
        static const char wanted[] = ".note.sgxmeta";
        char *name = part_of(file, file_size, names->sh_offset + sections[i].sh_name, 1);
        if ((uint64_t)((uint8_t *)name - file) + sizeof wanted > file_size || memcmp(name, wanted, sizeof wanted))
            continue;
        uint8_t *note = part_of(file, file_size, sections[i].sh_offset, sections[i].sh_size);
        if (sections[i].sh_size < NOTE_HEADER + DIRECTORIES + 32)
            break;
        uint8_t *record = note + NOTE_HEADER;
        uint64_t magic;
        uint32_t record_size;
        memcpy(&magic, record, 8);
        memcpy(&record_size, record + 16, 4);
        if (magic != METADATA_MAGIC || record_size > sections[i].sh_size - NOTE_HEADER ||
            record_size < DIRECTORIES + 32)
            break;
        *size = record_size;
        return record;
    }
    fail("the enclave was not laid out: `rvp sgx pack` does that");
}

static uint8_t *reserve(uint64_t size)
{
    uint8_t *start = mmap(0, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        fail("no address range for the enclave");
    return (uint8_t *)(((uint64_t)start + size - 1) & ~(size - 1));
}

static uint8_t *open_pages(struct enclave *enclave, uint64_t address, uint64_t size)
{
    uint8_t *start = part_of(enclave->base, enclave->size, address, size);
    if (mprotect(start, size, PROT_READ | PROT_WRITE))
        fail("cannot add pages");
    return start;
}

static void close_pages(uint8_t *start, uint64_t size, uint64_t flags)
{
    int protection = (flags & 1 ? PROT_READ : 0) | (flags & 2 ? PROT_WRITE : 0) | (flags & 4 ? PROT_EXEC : 0);
    mprotect(start, size, flags == FLAGS_TCS ? PROT_READ : protection);
}

static void add_segments(struct enclave *enclave)
{
    Elf64_Ehdr *header = (Elf64_Ehdr *)file;
    Elf64_Phdr *segments = part_of(file, file_size, header->e_phoff, header->e_phnum * sizeof *segments);
    for (int i = 0; i < header->e_phnum; i++) {
        Elf64_Phdr *one = &segments[i];
        if (one->p_type != PT_LOAD)
            continue;
        if (one->p_vaddr > enclave->size || one->p_memsz > enclave->size || one->p_filesz > one->p_memsz)
            fail("a segment does not fit the enclave");
        uint64_t start = one->p_vaddr & -PAGE, end = (one->p_vaddr + one->p_memsz + PAGE - 1) & -PAGE;
        uint8_t *pages = open_pages(enclave, start, end - start);
        memcpy(pages + (one->p_vaddr - start), part_of(file, file_size, one->p_offset, one->p_filesz), one->p_filesz);
        close_pages(pages, end - start,
                    (one->p_flags & PF_R ? 1 : 0) | (one->p_flags & PF_W ? 2 : 0) | (one->p_flags & PF_X ? 4 : 0));
    }
}

static void add_entry(struct enclave *enclave, const struct layout_entry *one, uint64_t shift, uint8_t *record,
                      uint64_t record_size)
{
    uint64_t address = one->address + shift, size = (uint64_t)one->pages * PAGE;
    if (!(one->attributes & ADD_PAGES) || (!one->content_offset && !one->flags) || !size)
        return;
    uint8_t *pages = open_pages(enclave, address, size);
    if (one->content_offset) {
        if (one->content_size > size)
            fail("a page has more content than it holds");
        memcpy(pages, part_of(record, record_size, one->content_offset, one->content_size), one->content_size);
    } else {
        for (uint64_t at = 0; one->content_size && at < size; at += 4)
            memcpy(pages + at, &one->content_size, 4);
    }
    if (one->flags == FLAGS_TCS) {
        static const int relative[] = {16, 48, 56}; /* OSSA, OFSBASE, OGSBASE */
        for (int i = 0; i < 3; i++)
            *(uint64_t *)(pages + relative[i]) += address;
        if (!enclave->tcs)
            enclave->tcs = pages;
    }
    close_pages(pages, size, one->flags);
}

void load_enclave(const char *path, struct enclave *enclave)
{
    uint64_t record_size;
    uint32_t directories[4];

    read_file(path);
    uint8_t *original = find_record(&record_size), *record = malloc(record_size);
    if (!record)
        fail("no memory");
    memcpy(record, original, record_size);
    memcpy(&enclave->size, record + 40, 8);
    memcpy(enclave->sigstruct, record + SIGSTRUCT, sizeof enclave->sigstruct);
    memcpy(directories, record + DIRECTORIES, sizeof directories);
    if (enclave->size < 2 * PAGE || enclave->size > 1ull << 40 || enclave->size & (enclave->size - 1))
        fail("the enclave's size is not a power of two");
    enclave->base = reserve(enclave->size);
    enclave->tcs = 0;

    struct patch *patches = part_of(record, record_size, directories[0], directories[1]);
    for (uint32_t i = 0; i < directories[1] / sizeof *patches; i++)
        memcpy(part_of(file, file_size, patches[i].file_offset, patches[i].size),
               part_of(record, record_size, patches[i].record_offset, patches[i].size), patches[i].size);
    add_segments(enclave);

    struct layout_entry *layout = part_of(record, record_size, directories[2], directories[3]);
    uint32_t entries = directories[3] / sizeof *layout;
    for (uint32_t i = 0; i < entries; i++) {
        if (!(layout[i].id & GROUP)) {
            add_entry(enclave, &layout[i], 0, record, record_size);
            continue;
        }
        if (layout[i].attributes > i)
            fail("a group repeats more entries than there are");
        for (uint32_t turn = 1; turn <= layout[i].pages; turn++)
            for (uint32_t again = i - layout[i].attributes; again < i; again++)
                add_entry(enclave, &layout[again], turn * layout[i].address, record, record_size);
    }
    if (!enclave->tcs)
        fail("the enclave has no thread");
    free(record);
    free(file);
}
