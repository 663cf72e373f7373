package api

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"herald/store"
)

type resourceView struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	Name string `json:"name"`
}

func viewResource(r *store.Resource) resourceView { return resourceView{r.ID, r.Type, r.Name} }

func (a *API) listResources(c *call) error {
	var fs faults
	q := c.r.URL.Query()
	limit := limitOf(q, &fs, 0)
	kind := q.Get("type")
	if kind != "" {
		if err := store.CheckResourceType(kind); err != nil {
			fs.add("type", "%s", err.Error())
		}
	}
	var after store.ResourceKey
	if s := q.Get("after"); s != "" {
		var err error
		if after, err = store.ParseResource(s); err != nil {
			fs.add("after", "%s", err.Error())
		}
	}
	if err := fs.err(); err != nil {
		return err
	}
	return stream(c, q, limit, func(last *store.Resource, n int) ([]store.Resource, error) {
		if last != nil {
			after = last.ResourceKey
		}
		return a.store.Resources(c.r.Context(), c.account.ID, kind, after, n)
	}, func(r *store.Resource) string { return r.String() }, viewOf(viewResource))
}

// resourceKey reads the key of the path.
func (c *call) resourceKey() (store.ResourceKey, error) {
	var fs faults
	key := store.ResourceKey{Type: c.r.PathValue("type"), ID: c.r.PathValue("id")}
	if err := store.CheckResourceType(key.Type); err != nil {
		fs.add("type", "%s", err.Error())
	}
	if err := store.CheckResourceID(key.ID); err != nil {
		fs.add("id", "%s", err.Error())
	}
	return key, fs.err()
}

func (a *API) readResource(c *call) error {
	key, err := c.resourceKey()
	if err != nil {
		return err
	}
	r, err := a.store.Resource(c.r.Context(), c.account.ID, key)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, viewResource(&r))
}

func (a *API) putResource(c *call) error {
	key, err := c.resourceKey()
	if err != nil {
		return err
	}
	r := store.Resource{ResourceKey: key}
	if c.r.ContentLength != 0 {
		var fs faults
		f, err := c.readObject(&fs)
		if err != nil {
			return err
		}
		f.same("type", key.Type, "it is in the path")
		f.same("id", key.ID, "it is in the path")
		r.Name, _ = f.label("name")
		f.end("")
		if err := fs.err(); err != nil {
			return err
		}
	}
	if err := a.putInCatalogue(c, []store.Resource{r}); err != nil {
		return err
	}
	return c.answer(http.StatusOK, viewResource(&r))
}

// maxResources bounds a bulk call.
const maxResources = 10_000

type resourceCount struct {
	Resources int `json:"resources"`
}

// putResources adds or replaces many resources, all or none.
func (a *API) putResources(c *call) error {
	if _, err := c.readBody(typeJSON); err != nil {
		return err
	}
	rs, err := c.parseResources()
	if err != nil {
		return err
	}
	if len(rs) > 0 {
		if err := a.putInCatalogue(c, rs); err != nil {
			return err
		}
	}
	return c.answer(http.StatusOK, resourceCount{len(rs)})
}

func (a *API) putInCatalogue(c *call, rs []store.Resource) error {
	err := a.store.PutResources(c.r.Context(), c.account.ID, rs)
	if errors.Is(err, store.ErrNotFound) {
		return newProblem(notFound, "the account %s was deleted", c.account.ID)
	}
	return err
}

// parseResources reads the array element by element, so that a long one costs no more than what is
// kept of it.
func (c *call) parseResources() ([]store.Resource, error) {
	body := c.body.Bytes()
	c.decoder.Reset(&c.body)
	t, err := c.decoder.ReadToken()
	if err != nil {
		return nil, explain(body, err)
	}
	if t.Kind() != jsontext.KindBeginArray {
		return nil, newProblem(badRequest, `the body must be an array of {"type","id","name"}, not %s`, kindName(t.Kind()))
	}
	var fs faults
	var rs []store.Resource
	seen := make(map[store.ResourceKey]bool)
	for i := 0; c.decoder.PeekKind() != jsontext.KindEndArray; i++ {
		if i == maxResources {
			return nil, newProblem(badRequest, "the array has more than %d elements; send it in parts", maxResources)
		}
		budget := maxNodes
		n, err := readNode(c.decoder, &budget)
		if err != nil {
			return nil, explain(body, err)
		}
		f := object(&n, "/"+strconv.Itoa(i), &fs)
		var r store.Resource
		r.Type = f.needed("type", store.CheckResourceType)
		r.ID = f.needed("id", store.CheckResourceID)
		r.Name, _ = f.label("name")
		f.end("")
		if seen[r.ResourceKey] && r.Type != "" && r.ID != "" {
			f.fault("", "is there twice: %s", r.String())
		}
		seen[r.ResourceKey] = true
		rs = append(rs, r)
	}
	if _, err := c.decoder.ReadToken(); err != nil {
		return nil, explain(body, err)
	}
	if err := atEnd(c.decoder, body); err != nil {
		return nil, err
	}
	return rs, fs.err()
}

// needed takes a string that has to be there and pass the check; nil lets all pass.
func (f *fields) needed(name string, check func(string) error) string {
	s, p := f.text(name)
	switch p {
	case absent, null:
		f.fault(name, "is needed")
	case given:
		if check == nil {
			break
		}
		if err := check(s); err != nil {
			f.fault(name, "%s", err.Error())
		}
	case wrong:
	}
	return s
}

func (a *API) deleteResource(c *call) error {
	key, err := c.resourceKey()
	if err != nil {
		return err
	}
	if err := a.store.DeleteResource(c.r.Context(), c.account.ID, key); err != nil {
		return err
	}
	return c.empty()
}
