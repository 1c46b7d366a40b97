"""Notebooks as people write them, each with what a check should say of it: (code, cell, line).

Cells are parted by lines of `# %%`. Half of them hold nothing wrong, and much that looks like it.
"""

NOTEBOOKS: dict[str, tuple[str, set[tuple[str, int | None, int | None]]]] = {
    "a first look at a table": (
        """
%matplotlib inline
import pandas as pd
import matplotlib.pyplot as plt
# %%
df = pd.read_csv("data/titanic.csv")
df.head()
# %%
df["Age"].fillna(df["Age"].median()).hist(bins=30)
plt.xlabel("age / a")
# %%
df.groupby("Sex")["Survived"].mean()
""",
        set(),
    ),
    "a first look, from somebody's desk": (
        """
import pandas as pd
# %%
df = pd.read_csv(r"C:\\Users\\grace\\Documents\\titanic.csv")
df.to_csv("/Users/ada/Desktop/out.csv")
# %%
df["Age"].hist()
plt.show()
# %%
sns.countplot(x="Sex", data=df)
""",
        {("NB301", 2, 1), ("NB301", 2, 2), ("NB201", 3, 2), ("NB201", 4, 1)},
    ),
    "cells written in the order of thoughts": (
        """
import numpy as np
# %%
model = fit(X, y)
# %%
X = np.linspace(0, 1, 50)
y = 2 * X + 1
# %%
def fit(x, y):
    return np.polyfit(x, y, degree)
# %%
degree = 3
del X
# %%
print(X.shape, model)
""",
        {("NB202", 2, 1), ("NB202", 6, 1)},
    ),
    "scikit-learn without seeds": (
        """
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import KFold, cross_val_score, train_test_split
# %%
X, y = load_iris(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3)
# %%
model = RandomForestClassifier(n_estimators=200)
cross_val_score(model, X, y, cv=KFold(5))
cross_val_score(model, X, y, cv=KFold(5, shuffle=True))
""",
        {("NB404", 2, 2), ("NB404", 3, 1), ("NB404", 3, 3)},
    ),
    "scikit-learn with seeds": (
        """
from sklearn.datasets import make_moons
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
# %%
seed = 3
X, y = make_moons(random_state=seed)
X_train, X_test, y_train, y_test = train_test_split(X, y, shuffle=False)
# %%
options = {"n_estimators": 200, "random_state": seed}
search = GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [1, 10]})
search.fit(X_train, y_train)
RandomForestClassifier(**options).fit(X_train, y_train).score(X_test, y_test)
""",
        set(),
    ),
    "an old tutorial that seeds everything once": (
        """
import random
import numpy as np
from sklearn.cluster import KMeans
random.seed(0)
np.random.seed(0)
# %%
points = np.random.randn(100, 2)
random.shuffle(list(points))
KMeans(n_clusters=3).fit(points)
""",
        set(),
    ),
    "numpy, old and new": (
        """
import numpy as np
from numpy.random import default_rng
# %%
rng = default_rng()
noise = rng.normal(size=10) + np.random.rand(10)
""",
        {("NB402", 2, 1), ("NB402", 2, 2)},
    ),
    "training a network": (
        """
import torch
import torch.nn as nn
import torch.optim as optim
from torch.utils.data import DataLoader, TensorDataset
# %%
class Net(nn.Module):
    def __init__(self, hidden: int = 64):
        super().__init__()
        self.fc = nn.Linear(10, hidden)

    def forward(self, x):
        return torch.relu(self.fc(x))
# %%
data = TensorDataset(torch.randn(100, 10), torch.randint(0, 2, (100,)))
loader = DataLoader(data, batch_size=10, shuffle=True)
net = Net()
optimizer = optim.Adam(net.parameters())
for x, y in loader:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
""",
        {("NB403", 2, 4), ("NB403", 3, 1)},
    ),
    "training a network, seeded": (
        """
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, random_split
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
# %%
train, test = random_split(range(100), [80, 20], generator=torch.Generator().manual_seed(0))
net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2)).to(device)
optimizer = optim.SGD(net.parameters(), lr=0.1)
# %%
%%time
for epoch in range(3):
    !nvidia-smi
    for batch in DataLoader(train, shuffle=True):
        print(epoch, batch)
""",
        set(),
    ),
    "using a network that somebody trained": (
        """
import torch
from torch import nn
from safetensors.torch import load_file
# %%
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
# %%
net = Net()
net.load_state_dict(load_file("models/net.safetensors"))
with torch.no_grad():
    print(net.fc(torch.ones(1, 3)))
""",
        set(),
    ),
    "magics everywhere": (
        """
%load_ext autoreload
%autoreload 2
%config InlineBackend.figure_format = "retina"
import pandas as pd
# %%
files = !ls *.csv
print(files.n, In[1], _)
# %%
%%capture printed --no-stderr
print("hello")
# %%
printed.show()
%timeit -n 3 sum(range(10))
x = %time sum(range(10))
x
# %%
%%bash
for f in *.csv; do echo $f; done
cp /home/ada/x.csv .
# %%
pd.read_csv?
!head -1 \\
    stars.csv
%time y = x + 1
# %%
%%time
%env THREADS=1
z = y + x
# %%
%%sql rows <<
SELECT * FROM stars
# %%
rows, z
""",
        set(),
    ),
    "made for Colab": (
        """
import sys
IN_COLAB = "google.colab" in sys.modules
if IN_COLAB:
    from google.colab import drive
    drive.mount("/content/drive")
try:
    import cupy as xp
except ImportError:
    import numpy as xp
# %%
!pip install -q einops
# %%
from einops import rearrange
rearrange(xp.ones((2, 3)), "a b -> b a")
""",
        set(),
    ),
    "scopes that are no faults": (
        """
from __future__ import annotations
import numpy as np
# %%
squares = [n**2 for n in range(3) if (m := n)]
total = sum(value for value in squares)
def outer(depth=0):
    count = 0
    def inner():
        nonlocal count
        count += later
        return count
    return inner() if depth else outer(depth=1)
# %%
class Star:
    kinds = ("a", "b")
    first = kinds[0]
    def twin(self) -> Star:
        return type(self)()
    def annotated(self, frame: Frame) -> "Table": ...
# %%
later = 1
match later:
    case int(number):
        print(number, m, outer())
for index, _ in enumerate([1]):
    pass
print(index)
try:
    maybe
except NameError:
    maybe = None
with open("a.txt") as file, open("b.txt", "w") as copy:
    copy.write(file.read())
lambda q, *r, **s: (q, r, s)
global_name: int
await_me = await outer.__call__() if False else None
""",
        set(),
    ),
    "names that come from elsewhere": (
        """
from fastai.vision.all import *
path = untar_data(URLs.PETS) / "images"
dls = ImageDataLoaders.from_name_func(path, get_image_files(path), label_func=lambda x: x[0].isupper())
learn = vision_learner(dls, resnet34)
""",
        {("NB302", 1, 1)},
    ),
    "a helper notebook is run first": (
        """
%run ../shared/helpers.ipynb
# %%
table = load_everything()
""",
        set(),
    ),
    "paths that are none": (
        '''
import re, os
from pathlib import Path
# %%
routes = {"stars": "/api/v1/stars", "home": "/home"}
response = client.get("/api/v1/stars")
if os.path.exists("/dev/null") and text.startswith("/home/ada/"):
    group = store["/train/images"]
text = re.sub(r"/Users/\\w+/", "~", text)
doc = tree.xpath("/html/body/div")
"""Written by /home/ada/bin/tool."""
print("look into /home/ada/ for more")
url = "https://example.org/home/ada/data.csv"
local = Path("data") / "stars.csv"
windows_newline = "a:\\n"
''',
        {("NB201", 2, 2), ("NB202", 2, 3), ("NB201", 2, 4), ("NB201", 2, 6)},
    ),
    "paths of one machine": (
        """
import os, sys
import numpy as np
sys.path.append("/home/ada/project/src")
os.chdir(os.path.expanduser("~/project"))
# %%
DATA_DIR = "/srv/survey/2024"
images = np.load(f"/scratch/grace/{len(sys.argv)}.npy")
table = dict(path="/mnt/nas/stars.csv")
out = os.path.join("/group/astro", "out.npy")
# %%
%cd /home/ada/project
!cp /home/ada/x.csv .
""",
        {("NB301", 1, 3), ("NB301", 1, 4), ("NB301", 2, 1), ("NB301", 2, 2), ("NB301", 2, 3), ("NB301", 2, 4), ("NB301", 3, 1), ("NB301", 3, 2)},
    ),
    "asking an interface": (
        """
import os
import requests
api_key = os.environ["API_KEY"]
token = "[CLS]"
password = getpass.getpass()
headers = {"Authorization": f"Bearer {api_key}", "api_key": "YOUR_API_KEY_HERE_1"}
# %%
requests.get("https://api.example.org/v1", headers=headers, auth=("user", "pass"))
""",
        {("NB201", 1, 5)},
    ),
    "asking an interface, key included": (
        """
import requests
api_key = "d41d8cd98f00b204e9800998ecf8427e"
# %%
db = connect(host="db", user="grace", password="Tr0ub4dor&3")
engine = "postgresql://grace:s3nsible@db.example.org:5432/stars"
requests.get("https://api.example.org", headers={"X-Api-Key": api_key})
""",
        {("NB501", 1, 2), ("NB501", 2, 1), ("NB501", 2, 2), ("NB201", 2, 1)},
    ),
    "words that are no secrets": (
        """
tokens = "the quick brown fox".split()
pad_token = "<|endoftext|>"
secret_santa = {"ada": "grace"}
password_field = "input#password-9"
key = "period_amplitude_1"
sort_key = "9f8e7d6c5b4a39281706"
digest = "sha256:3fa2b1c09f8e7d6c5b4a392817063fa2b1c09f8e7d6c5b4a39281706aabbccdd"
html = "<div class='sk-top-container sk-toggleable__content-label-arrow'>"
PASSWORD = "password"
access_token = "ACCESS_TOKEN_PRODUCTION"
""",
        set(),
    ),
    "a half finished notebook": (
        """
import pandas as pd
# %%
df = pd.read_csv("x.csv"
df.head()
# %%
TODO: ask Grace
# %%
for row in df:
print(row)
# %%
return df
""",
        {("NB102", 2, 1), ("NB102", 3, 1), ("NB102", 4, 2), ("NB102", 5, 1)},
    ),
    "Python 2, still": (
        """
print "hello"
# %%
for i in xrange(3):
    raw_input(unicode(i))
""",
        {("NB102", 1, 1), ("NB201", 2, 1), ("NB201", 2, 2)},
    ),
    "a talk with demonstrations of errors": (
        """
#| eval: false
undefined_on_purpose + 1
# %%
#| export
from pathlib import Path
HERE = Path(__file__).parent
# %%
print(__name__, __doc__, HERE)
print(__file__)
""",
        {("NB201", 3, 2)},
    ),
    "time series": (
        """
import datetime as dt
from functools import partial
import numpy as np, pandas as pd
from scipy import optimize, stats
# %%
t = pd.date_range("2024-01-01", periods=100, freq="D")
flux = np.sin(2 * np.pi * np.arange(100) / 7)
model = lambda x, a, p: a * np.sin(2 * np.pi * x / p)
popt, pcov = optimize.curve_fit(model, np.arange(100), flux, p0=[1, 7])
rows = pd.DataFrame({"t": t, "flux": flux}).sample(frac=0.5, random_state=0)
rows2 = rows.sample(n=3)
draws = stats.norm(0, 1).pdf(flux)
best = partial(model, a=popt[0])(np.arange(3), p=popt[1])
""",
        set(),
    ),
    "a sample of a table": (
        """
import pandas as pd
stars = pd.DataFrame({"a": range(10)})
# %%
shuffled = stars.sample(frac=1).reset_index(drop=True)
""",
        {("NB404", 2, 1)},
    ),
    "Monte Carlo in the standard library": (
        """
from random import choices, random as draw
# %%
inside = sum(draw() ** 2 + draw() ** 2 < 1 for _ in range(1000))
choices([1, 2])
""",
        {("NB401", 2, 1)},
    ),
    "packages that nobody wrote down": (
        """
import numpy as np
import nowhere_to_be_found
import sklearn, yaml
from IPython.display import display, HTML
from PIL import Image
display(np.ones(3), Image, HTML)
# %%
import nowhere_to_be_found.again
""",
        {("NB302", 1, 2), ("NB302", 1, 3)},
    ),
}
